"""The committed JSON Schema of endpoint files is current, and agrees with `millrace check`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from broker.errors import Misconfigured
from broker.records.endpoint import read_endpoint
from router.declaration.policy import read_config
from router.declaration.schema import DRAFT, endpoint_schema
from tests.router.declarations import POLICIES, document

SCHEMA = endpoint_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_committed_schema_is_what_millrace_schema_prints() -> None:
    committed = Path(__file__).parents[2] / "docs/endpoint.schema.json"
    assert json.loads(committed.read_text("utf-8")) == SCHEMA, "millrace schema > docs/endpoint.schema.json"


def test_the_schema_is_valid() -> None:
    assert SCHEMA["$schema"] == DRAFT
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_right_policies_fit_the_schema(policy: str) -> None:
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


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    3.0,
    16,
    17,
    -1,
    0.5,
    0.51,
    1.5,
    1e-6,
    9e-4,
    1e-3,
    0.01,
    100,
    101,
    1000,
    1001,
    1e6,
    1e7,
    1e12,
    1e13,
    -1e13,
    10**9 + 1,
    "",
    "3",
    "v1",
    "v9",
    "a b",
    "x" * 64,
    "x" * 257,
    "skip",
    "auto",
    "header",
    "Header",
    "usr",
    "parameters.",
    "parameters.user_id",
    "parameters. x",
    "parameter.user_id",
    "rank@1",
    "rank",
    "failed",
    "real",
    "truth",
    "error",
    "balanced",
    "team",
    "gaussian",
    "kl",
    "0%",
    "0.0%",
    "5%",
    "005%",
    "50%",
    "50.1%",
    "99.9%",
    "100%",
    "101%",
    "0s",
    "999ns",
    "1us",
    "0.9us",
    "1ms",
    "999us",
    "1s",
    "999ms",
    "0.999s",
    "1m",
    "10m",
    "601s",
    "1h",
    "61m",
    "0.5d",
    "7d",
    "7.1d",
    "30d",
    "31d",
    "365d",
    "366d",
    "1s..2s",
    "1s..",
    "..2s",
    [],
    ["v1"],
    ["v1", "v1"],
    ["v1", "v2"],
    ["v1", "v2", "v3"],
    ["v1", 3],
    ["failed"],
    ["a"],
    ["a", "a"],
    [{"a": [1, 1.0]}],
    [{"a": [1, "b"]}],
    [{"": [1]}],
    [{"tensor": "x", "size": 3.0}],
    [{"tensor": "x", "size": 201}],
    [{"tensor": "x", "size": True}],
    [""],
    [1, 2],
    [0.001, 1],
    [1, 1e7],
    [0, 1],
    ["0%", "50%"],
    ["5%", "50%"],
    [0, 0.5],
    {},
    {"v1": 1},
    {"v1": 0},
    {"v1": 1e13},
    {"v1": True},
    {"a b": 1},
    {"time": "0s"},
    {"max": "366d"},
    {"alpha": "50.1%"},
    {"max": None},
]
MISSING = object()
OF_SEVERAL_KEYS = re.compile(
    "|".join(
        [
            "is not an arm; declared arms",
            "is not among feedback.rewards",
            "is the canary",
            "a shadow is another arm",
            "is a real reward",
            "leave nothing of the deadline",
            "no canary could be promoted",
            "at most 20000",
            "a canary can join a bandit",
            "for each of",
            "prior counts",
            "it compares 2",
            "a bandit chooses among",
            "over is for bad: slow",
            "and log.(sample|drop)",
            "the endpoint has (no key|none)",
            "arms need one",
            "gives a (real|bool) reward",
            "is not a (bool|unit) reward",
            "it gets the first arm",
            "max_rate needs",
            "is from: truth",
            "score and output are for",
        ]
    )
)
OF_ONE_KEY_WITH_PARTS = re.compile("is not a part of the keys|that rise between|watch the same|first pause is longer")
OF_ONE_WITH_A_UNIT = re.compile(r"seconds are not a valid .*: write one from|is not allowed: write a share")


def paths(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a declaration."""
    if at:
        yield at
    keys = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in keys:
        yield from paths(inner, (*at, key))


def keys_of(data: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a declaration, and of every key that may be added."""
    yield from paths(data)
    yield from ((key,) for key in SCHEMA["properties"] if key not in data)
    policy = next(one for one in SCHEMA["$defs"].values() if fits(one, data["policy"]))
    yield from (("policy", key) for key in policy["properties"] if key not in data["policy"])
    yield from (("feedback", "rewards", "clicked", key) for key in SCHEMA["$defs"]["Reward"]["properties"])


def fits(definition: dict[str, Any], policy: Any) -> bool:
    return bool(Draft202012Validator({**definition, "$defs": SCHEMA["$defs"]}).is_valid(policy))


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a declaration with another value at a path, or without the key."""
    data = copy.deepcopy(data)
    node = data
    for part in path[:-1]:
        node = node[part]
    if value is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


def explained(data: Any) -> str | None:
    """Return the error of `millrace check`, None if the declaration is valid."""
    try:
        read_config(read_endpoint(data, source="test"))
    except Misconfigured as exc:
        return str(exc)
    return None


@cache
def part_validator(key: str) -> Any:
    return Draft202012Validator({**SCHEMA["properties"][key], "$defs": SCHEMA["$defs"]})


def allowed(data: dict[str, Any], path: tuple[Any, ...]) -> bool:
    """Return True if the schema accepts a declaration that was changed at one path."""
    if path[0] not in data:
        return bool(VALIDATOR.is_valid(data))
    return bool(part_validator(path[0]).is_valid(data[path[0]]))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_schema_and_check_agree_on_every_value_of_one_key(policy: str) -> None:
    """The schema accepts all that `check` accepts.

    `check` refuses more only for combinations of keys, for parts of one key, and for values with a unit.
    """
    right = document(policy)
    for path in keys_of(right):
        if path[0] != "policy" and policy != POLICIES["split"]:
            continue
        for value in (MISSING, *VALUES):
            try:
                data = changed(right, path, value)
            except KeyError:
                continue
            error, fit = explained(data), allowed(data, path)
            where = f"{'.'.join(map(str, path))}: {'nothing' if value is MISSING else value!r}"
            if error is None:
                assert fit, f"{where}: check accepts it, the schema does not"
            elif fit:
                known = OF_SEVERAL_KEYS.search(error) or OF_ONE_KEY_WITH_PARTS.search(error)
                bounded = isinstance(value, (str, dict, list)) and OF_ONE_WITH_A_UNIT.search(error)
                assert known or bounded, f"{where}: the schema accepts it, and the error of check is {error}"
