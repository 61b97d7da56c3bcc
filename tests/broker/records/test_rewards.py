"""The feedback, holdout and slices of a declaration: errors tell how to fix them, and the hash is stable."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import Misconfigured
from broker.messages import NO_HEADERS, Record
from broker.records.declared import digest, endpoint_declared, read_declared
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.rewards import Reward
from broker.records.routing import experiment_of

BASE = {"endpoint": "e", "arms": {"v1": "m@1"}}


def rewarded(**reward: Any) -> Endpoint:
    return read_endpoint({**BASE, "feedback": {"rewards": {"r": reward}}}, source="test")


def read(**reward: Any) -> Reward:
    return rewarded(**reward).feedback.rewards["r"]


def of_truth(score: str, **reward: Any) -> dict[str, Any]:
    return {"from": "truth", "score": score, **reward}


def test_a_reward_from_values_needs_a_default() -> None:
    assert read(default=0) == read(type="bool", horizon="30m", default=0.0, duplicates="first")
    assert read(default="skip", type="real", horizon="30d").horizon == 30 * 86_400.0
    with pytest.raises(Misconfigured, match=r"a missing reward is not a zero until its horizon is over: .* such as 0"):
        read(type="bool")


def test_a_reward_of_the_truth_has_the_type_of_its_score() -> None:
    assert read(**of_truth("argmax")).type == read(**of_truth("equal")).type == "bool"
    assert read(**of_truth("error", output="price")).type == "real"
    assert read(**of_truth("argmax")).default == "skip"
    assert read(**of_truth("argmax", default=0)).default == 0.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"default": True}, "default: True is not a reward: write a number, or skip"),
        ({"default": "0"}, "default: '0' is not a reward"),
        ({"default": float("nan")}, "default: nan is not a reward"),
        ({"default": 10**400}, "a huge number is not a reward"),
        (
            {"default": 1e13, "type": "real"},
            "10000000000000.0 is not a reward: write a number from -1e12 to 1e12, or skip",
        ),
        ({"default": 0.5}, "default 0.5 is not a bool reward: write 0, 1 or skip"),
        ({"default": 2, "type": "unit"}, "default 2 is not a unit reward: write a number from 0 to 1, or skip"),
        ({"default": 0, "horizon": "0.5s"}, "horizon: 0.5 seconds are not a valid horizon: write one from 1s to 30d"),
        ({"default": 0, "horizon": "31d"}, "write one from 1s to 30d"),
        ({"default": 0, "horizon": 60}, "60 is not a duration"),
        ({"default": 0, "type": "number"}, "type: Input should be 'bool', 'unit' or 'real'"),
        ({"default": 0, "typ": "real"}, "rewards.r.typ: unknown key; did you mean 'type'?"),
        ({"default": 0, "form": "truth"}, "rewards.r.form: unknown key; did you mean 'from'?"),
        ({"default": 0, "source": "truth"}, "rewards.r.source: unknown key"),
        ({"default": 0, "score": "argmax"}, "score and output are for rewards from: truth"),
        ({"from": "truth"}, "score is missing: say how an answer is scored"),
        (of_truth("error", type="bool"), "score error gives a real reward"),
        (of_truth("argmax", type="unit"), "score argmax gives a bool reward"),
        (of_truth("best"), "score: Input should be 'argmax', 'equal' or 'error'"),
    ],
)
def test_a_wrong_reward_is_refused_with_the_way_out(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        rewarded(**reward)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"feedback": []}, "feedback: a mapping of keys is expected, found list"),
        ({"feedback": {"reward": {}}}, "feedback.reward: unknown key; did you mean 'rewards'?"),
        ({"feedback": {"rewards": {"a b": {"default": 0}}}}, "reward 'a b': a name is"),
        ({"feedback": {"rewards": {f"r{n}": {"default": 0} for n in range(33)}}}, "at most 32 items"),
        ({"holdout": 5}, "holdout: 5 is not a share: write 20% or 0.2"),
        ({"holdout": True}, "True is not a share"),
        ({"holdout": "101%"}, "'101%' is not a share"),
        ({"holdout": "0.2"}, "'0.2' is not a share"),
        ({"holdout": [["x"]]}, "a list is not a share"),
        ({"exclusive": {"group": "g", "slice": ["50%", "50%"]}}, "slice: from 0.5 to 0.5 is not a part of the keys"),
        ({"exclusive": {"group": "g", "slice": ["50%"]}}, "exclusive.slice.1: this key is missing"),
        ({"exclusive": {"group": "g", "slic": [0, 1]}}, "exclusive.slic: unknown key; did you mean 'slice'?"),
        ({"exclusive": {"group": "a b", "slice": [0, 1]}}, "group 'a b': a name is"),
    ],
)
def test_wrong_keys_beside_rewards_are_refused_with_the_way_out(more: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        read_endpoint({**BASE, **more}, source="test")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "'' is not a key: write header, or parameters. and the name of one, such as parameters.user_id"),
        ("usr", "'usr' is not a key: did you mean 'parameters.usr'? write header, or"),
        ("heder", "did you mean 'header'?"),
        (" header", "did you mean 'header'?"),
        ("parameters.", "'parameters.' is not a key: write header"),
        ("parameters", "'parameters' is not a key: write header"),
        ("parameters. user", "did you mean 'parameters.user'?"),
        ("parameter.user_id", "did you mean 'parameters.user_id'?"),
        ("body.user_id", "'body.user_id' is not a key: write header"),
        (5, "key: Input should be a valid string"),
    ],
)
def test_a_key_that_no_router_can_read_is_refused_with_the_way_out(key: Any, message: str) -> None:
    with pytest.raises(Misconfigured, match="key: ") as caught:
        read_endpoint({**BASE, "key": key}, source="test")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", [None, "header", "parameters.user_id", "parameters.user id", "parameters.a.b"])
def test_a_key_is_the_header_or_a_parameter(key: str | None) -> None:
    assert read_endpoint({**BASE, "key": key}, source="test").key == key


@pytest.mark.parametrize(
    ("retry", "message"),
    [
        ({"attempts": "3"}, "retry.attempts: '3' is not a number"),
        ({"attempts": True}, "True is not a number"),
        ({"attempts": 2.5}, "2.5 is not a whole number"),
        ({"attempts": 101}, "retry.attempts: Input should be less than or equal to 100"),
        ({"backoff": "1s.."}, "retry.backoff: '' is not a duration"),
        ({"backoff": "2s..1s"}, "the first pause is longer than the last"),
    ],
)
def test_a_wrong_retry_is_refused_with_the_way_out(retry: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        read_endpoint({**BASE, "retry": retry}, source="test")
    assert message in str(caught.value)


WRITTEN: dict[str, Any] = {
    **BASE,
    "deadline": "49us",
    "holdout": "5%",
    "exclusive": {"group": "g", "slice": ["10%", 0.7]},
    "feedback": {
        "rewards": {
            "clicked": {"default": 0, "horizon": "1.5h"},
            "spent": {"type": "real", "default": -0.1, "duplicates": "sum"},
            "right": of_truth("argmax", output="label"),
            "error": of_truth("error", default="skip", horizon="7d"),
        }
    },
    "policy": {"split": {"v1": 1}},
}


def test_a_declaration_is_read_back_from_the_log() -> None:
    endpoint = read_endpoint(WRITTEN, source="test")
    declared = read_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))
    assert declared is not None
    assert declared.declaration == endpoint
    assert declared.digest == digest(endpoint) == digest(declared.declaration)


def test_the_hash_depends_on_the_values_and_not_on_their_notation() -> None:
    other_notation = {**dict(reversed(WRITTEN.items())), "holdout": 0.05, "deadline": "0.000049s"}
    assert digest(read_endpoint(other_notation, source="test")) == digest(read_endpoint(WRITTEN, source="test"))
    changes: list[dict[str, Any]] = [{"holdout": "6%"}, {"feedback": {}}, {"exclusive": None}]
    for change in changes:
        changed = read_endpoint({**WRITTEN, **change}, source="test")
        assert digest(changed) != digest(read_endpoint(WRITTEN, source="test"))


def test_the_hash_depends_on_the_order_of_arms() -> None:
    """Weights and statistics refer to an arm by its position."""
    arms = {"old": "m@1", "new": "m@2"}
    data = {"endpoint": "e", "arms": arms, "policy": {"split": ["old", "new"]}}
    one, other = (
        read_endpoint({**data, "arms": dict(order)}, source="test") for order in (arms.items(), reversed(arms.items()))
    )
    assert digest(one) != digest(other)
    assert experiment_of(one) != experiment_of(other)
