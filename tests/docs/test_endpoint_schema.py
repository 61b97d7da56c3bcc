"""The JSON Schema of an endpoint's file is the one that is committed, and says what the readers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from router.declaration.schema import DRAFT, endpoint_schema
from tests.router.declaring import POLICIES, document

SCHEMA = endpoint_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_committed_schema_is_what_millrace_schema_prints() -> None:
    committed = Path(__file__).parents[2] / "docs/endpoint.schema.json"
    assert json.loads(committed.read_text("utf-8")) == SCHEMA, "millrace schema > docs/endpoint.schema.json"


def test_it_is_a_schema() -> None:
    assert SCHEMA["$schema"] == DRAFT
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_what_is_right_fits(policy: str) -> None:
    VALIDATOR.validate(document(policy))


def test_one_arm_needs_no_policy() -> None:
    VALIDATOR.validate({"endpoint": "e", "arms": {"v1": "m@1"}})
    VALIDATOR.validate({"endpoint": "e", "arms": {"v1": "m@1"}, "policy": {}, "key": None})


@pytest.mark.parametrize(
    "policy",
    [
        "{splt: [v1]}",
        "{split: {v1: -1}}",
        "{split: {v1: 90%}}",
        "{split: [v1], stiky: true}",
        "{shadow: v2}",
        "{shadow: v2, serve: v1, sample: 120%}",
        "{bandit: thomson, reward: clicked}",
        "{bandit: thompson}",
        "{bandit: ucb, reward: clicked}",
        "{bandit: exp3, reward: clicked, rate: fast}",
        "{bandit: lints, reward: clicked, features: [hour], discount: 1h}",
        "{bandit: lints, reward: clicked, features: [{tensor: x}]}",
        "{canary: v3}",
        "{canary: v3, stable: {bandit: ucb, reward: clicked}}",
        "{canary: v3, stable: v1, hold: {time: 10}}",
        "{canary: v3, stable: v1, guardrails: []}",
        "{canary: v3, stable: v1, guardrails: [{bad: slow}]}",
        "{canary: v3, stable: v1, on_promote: joined}",
        "{interleave: [v1, v2]}",
        "{interleave: [v1, v2], credit: clicked, stop: {after: 1d}}",
    ],
)
def test_a_wrong_policy_does_not_fit(policy: str) -> None:
    assert not VALIDATOR.is_valid(document(policy))


@pytest.mark.parametrize(
    "wrong",
    [
        {"arms": {"v1": "rank"}},
        {"arms": {}},
        {"arms": {"a b": "rank@1"}},
        {"deadline": 2},
        {"holdout": "5"},
        {"exclusive": {"group": "home", "slice": ["0%"]}},
        {"feedback": {"reward": {}}},
        {"feedback": {"rewards": {"clicked": {}}}},
        {"feedback": {"rewards": {"clicked": {"default": "none"}}}},
        {"feedback": {"rewards": {"clicked": {"default": 0, "score": "argmax"}}}},
        {"feedback": {"rewards": {"right": {"from": "truth"}}}},
        {"polcy": {}},
    ],
)
def test_a_wrong_key_of_the_endpoint_does_not_fit(wrong: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document("{split: [v1, v2]}", **wrong))
