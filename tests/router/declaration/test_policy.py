"""Every policy is read as it was meant, or refused with the way out; nothing that can be written breaks a reader."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Misconfigured
from broker.records.endpoint import read_endpoint
from deploy.yaml_text import documents
from router.declaration.features import NumberFeature, OneHotFeature, TensorFeature
from router.declaration.policy import read_config
from router.declaration.registry import BANDITS
from router.declaration.registry import POLICIES as WORDS
from router.kinds.bandit import BanditConfig, LinearConfig
from router.kinds.canary import CanaryConfig
from router.kinds.guardrails import BadGuardrail, RewardGuardrail
from router.kinds.thompson import ThompsonConfig
from router.policies.declared import read_policy
from router.policies.interleaving import Interleaving
from router.policies.learned import LearnedPolicy
from router.policies.shadow import Shadow
from router.policies.split import Split
from tests.router.declarations import ENDPOINT, POLICIES, document, endpoint_of


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_weighs_only_its_own_arms(policy: str) -> None:
    endpoint = endpoint_of(policy)
    weights = read_policy(endpoint).first().weights
    assert len(weights) == len(endpoint.arms)
    assert all(weight >= 0.0 for weight in weights)
    assert any(weights)


def test_no_policy_is_the_one_arm() -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": {"v1": "m@1"}}, source="test")
    assert read_config(endpoint) is None
    assert read_policy(endpoint) == Split((1.0,))


def test_each_declared_policy_becomes_the_policy_that_routers_draw_from() -> None:
    assert read_policy(endpoint_of("{split: {v1: 90, v2: 10}}")) == Split((90.0, 10.0, 0.0))
    assert read_policy(endpoint_of("{shadow: v2, serve: v1, sample: 20%}")) == Shadow(3, 0, 1, 0.2)
    assert read_policy(endpoint_of("{bandit: ucb, reward: clicked, floor: 1%, arms: [v3, v1]}")) == LearnedPolicy(
        "ucb", (0.5, 0.0, 0.5)
    )
    canary = read_policy(endpoint_of("{canary: v3, stable: v1, steps: [20%, 50%], sticky: true}"))
    assert canary == LearnedPolicy("canary", (0.8, 0.0, 0.2), sticky=True)
    assert read_policy(endpoint_of(POLICIES["multileave"])) == Interleaving(
        arms=3, rankers=(0, 1, 2), method="probabilistic", length=20, output="items", reward="watched", wait_s=0.5
    )
    stopping = read_policy(endpoint_of(POLICIES["interleave"]))
    assert isinstance(stopping, Interleaving)
    assert stopping.max_ticks == 14 * 86_400


def test_a_canary_is_read_with_units_and_defaults() -> None:
    config = read_config(endpoint_of(POLICIES["canary beside a bandit"]))
    assert isinstance(config, CanaryConfig)
    assert config.steps == (0.01, 0.05, 0.25, 0.5)
    assert config.hold.time == 600.0
    assert config.guardrails == (
        BadGuardrail(bad="failed", max_ratio=1.5, max_rate=0.001),
        BadGuardrail.model_validate({"bad": "slow", "over": "250ms", "max_ratio": 1.3}),
        RewardGuardrail(reward="clicked", max_drop=0.02),
    )
    assert isinstance(config.stable, ThompsonConfig)
    short = read_config(endpoint_of("{canary: v3, stable: v1}"))
    assert isinstance(short, CanaryConfig)
    assert (short.steps, short.hold, short.alpha, short.timeout) == (config.steps, config.hold, 0.05, 86_400.0)


def test_a_bandit_without_arms_has_all_that_there_are_for_it_in_the_endpoints_order() -> None:
    alone = read_config(endpoint_of("{bandit: thompson, reward: clicked}"))
    assert isinstance(alone, BanditConfig)
    assert alone.arms == ("v1", "v2", "v3")
    named = read_config(endpoint_of("{bandit: thompson, reward: clicked, arms: [v3, v1]}"))
    assert isinstance(named, BanditConfig)
    assert named.arms == ("v1", "v3")
    beside = read_config(endpoint_of("{canary: v2, stable: {bandit: thompson, reward: clicked}}"))
    assert isinstance(beside, CanaryConfig)
    assert isinstance(beside.stable, BanditConfig)
    assert beside.stable.arms == ("v1", "v3")


def test_features_are_read_in_three_forms_and_counted_with_an_intercept() -> None:
    config = read_config(endpoint_of(POLICIES["lints"]))
    assert isinstance(config, LinearConfig)
    assert config.features == (
        NumberFeature("hour"),
        OneHotFeature("country", ("de", "fr", 7.0)),
        TensorFeature("x", 4),
    )
    assert config.dimensions == 1 + 1 + 3 + 4
    as_tensor = read_config(endpoint_of("{bandit: lints, reward: clicked, features: [{tensor: [a, b]}]}"))
    assert isinstance(as_tensor, LinearConfig)
    assert as_tensor.features == (OneHotFeature("tensor", ("a", "b")),)


WRONG = {
    # words
    "{splt: [v1]}": "did you mean 'split'? known policies: " + ", ".join(WORDS),
    "{1: 2}": "",
    "{split: [v1], canary: v2}": "split and canary are policies of their own: keep one",
    "{bandit: thomson, reward: clicked}": "bandit: 'thomson' is not a bandit; did you mean 'thompson'?",
    "{bandit: [thompson], reward: clicked}": "known bandits: " + ", ".join(BANDITS),
    "{canary: v3, stable: {bandit: tompson}}": "stable: bandit: 'tompson' is not a bandit; did you mean 'thompson'?",
    "{canary: v3, stable: {bandit: ucb, reward: clicked, florr: 1%}}": "stable.florr: unknown key; did you mean 'fl",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, max_rati: 2}]}": "guardrails.0.max_rati: unknown key; did you",
    "{interleave: [v1, v2], credit: clicked, stop: {alpa: 1%}}": "stop.alpa: unknown key; did you mean 'alpha'?",
    # arms
    "{shadow: v1, serve: v9}": "serve: 'v9' is not an arm; declared arms: v1, v2, v3",
    "{shadow: v1, serve: v1}": "a shadow is another arm",
    "{split: [v1, v1]}": "twice",
    "{canary: v3, stable: v3}": "v3 is the canary",
    "{canary: v3, stable: {bandit: thompson, reward: clicked, arms: [v1, v3]}}": "stable.arms: v3 is the canary",
    "{bandit: thompson, reward: clicked, arms: [v1]}": "a bandit chooses among 2 arms or more, and it has 1",
    "{interleave: [v1], credit: clicked}": "1 rankers",
    "{interleave: [v1, v1], credit: clicked}": "twice",
    # rewards
    "{bandit: thompson, reward: liked}": "'liked' is not among feedback.rewards; declared rewards: clicked, watched",
    "{bandit: thompson, reward: spent}": "spent is a real reward, and thompson needs one from 0 to 1",
    "{bandit: ucb, reward: distance, floor: 1%}": "distance is a real reward",
    "{canary: v3, stable: v1, guardrails: [{reward: spent}]}": "guardrails.0.reward: spent is a real reward",
    "{interleave: [v1, v2], credit: right}": "from: truth",
    "{interleave: [v1, v2], credit: spent}": "real reward",
    # numbers
    "{bandit: ucb, reward: clicked}": "floor: this key is missing",
    "{bandit: linucb, reward: clicked, features: [a], floor: 0}": "floor: 0 is not allowed: write a share above 0%",
    "{bandit: thompson, reward: clicked, floor: 40%}": "0.4 for each of 3 arms is more than 1 in all: 0.3333",
    "{bandit: thompson, reward: clicked, floor: true}": "True is not a share",
    "{bandit: thompson, reward: clicked, floor: .nan}": "is not a share",
    "{bandit: thompson, reward: clicked, prior: [0, 1]}": "prior.0",
    "{bandit: thompson, reward: clicked, prior: [true, 1]}": "True is not a number",
    "{bandit: thompson, reward: spent, noise: gaussian, prior: [1, 1]}": "prior counts successes and failures",
    "{bandit: thompson, reward: clicked, refresh: 5}": "5 is not a duration",
    "{bandit: thompson, reward: clicked, refresh: 100ms}": "not a valid refresh: write one from 1s to 1h",
    "{bandit: thompson, reward: clicked, discount: 0s}": "not a valid half-life",
    "{bandit: lints, reward: clicked, features: [a], discount: 1h}": "discount: unknown key",
    "{bandit: exp3, reward: clicked, rate: 0}": "0 is not a rate: write auto",
    "{bandit: exp3, reward: clicked, rate: autp}": "'autp' is not a rate: write auto",
    "{canary: v3, stable: {bandit: lints, reward: clicked, features: [a]}}": "stable: lints uses features, which",
    "{bandit: lints, reward: clicked, features: [a], ridge: 9.0e-4}": "ridge: Input should be greater than or equal to",
    "{bandit: thompson, reward: clicked, floor: 51%}": "floor: 0.51 is not allowed: write a share from 0% to 50%",
    "{bandit: lints, reward: clicked, features: []}": "at least one",
    "{bandit: lints, reward: clicked, features: [a, a]}": "'a' is there twice",
    "{bandit: lints, reward: clicked, features: [{a: [1, 1.0]}]}": "twice",
    "{bandit: lints, reward: clicked, features: [{a: [true]}]}": "True is not a number",
    "{bandit: lints, reward: clicked, features: [{tensor: x, size: 0}]}": "size 0",
    "{bandit: lints, reward: clicked, features: [{tensor: x, size: 81}]}": "are 20172: at most 20000 can be learned",
    "{canary: v3, stable: v1, steps: []}": "1 to 32 shares are expected",
    "{canary: v3, stable: v1, steps: [5%, 5%]}": "that rise between 0% and 100%",
    "{canary: v3, stable: v1, steps: [5%, 100%]}": "steps.1: 1 is not allowed: write a share above 0% and below 100%",
    "{canary: v3, stable: v1, steps: [5]}": "5 is not a share: write 20% or 0.2",
    "{canary: v3, stable: v1, guardrails: []}": "without any, harm would not be detected",
    "{canary: v3, stable: v1, guardrails: [{bad: failed}, {bad: failed, max_ratio: 2}]}": "two of them watch the same",
    "{canary: v3, stable: v1, guardrails: [{bad: slow}]}": "over is missing",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, over: 1s}]}": "over is for bad: slow",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, reward: clicked}]}": "a guardrail is one of",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, max_ratio: 1}]}": "max_ratio",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, max_rate: 100%}]}": "max_rate",
    "{canary: v3, stable: v1, guardrails: [{reward: clicked, max_drop: 2}]}": "2 is not a share",
    "{canary: v3, stable: v1, guardrails: [{bad: failed, max_rate: 1%}], sticky: true}": "max_rate needs independent",
    "{canary: v3, stable: v1, hold: {canary_requests: 0}}": "hold.canary_requests",
    "{canary: v3, stable: v1, hold: {canary_requests: true}}": "hold.canary_requests",
    "{canary: v3, stable: v1, alpha: 0}": "alpha",
    "{canary: v3, stable: v1, on_promote: join}": "a canary can join a bandit",
    "{canary: v3, stable: v1, timeout: 30m}": "no canary could be promoted",
    "{canary: v3, stable: [v1, v2]}": "write an arm, or a bandit",
    "{split: {v1: 90%}}": "'90%' is not a weight",
    "{split: {v1: true}}": "True is not a weight",
    "{split: {v1: .inf}}": "is not a weight",
    "{split: {v1: 1, v2: -1}}": "-1 is not a weight",
    "{split: v1}": "arms are expected",
    "{split: [v1, 3]}": "arms are expected",
    "{split: [v1], sticky: 1}": "sticky",
    "{interleave: [v1, v2, v3], credit: clicked, method: balanced}": "3 rankers; it compares 2",
    "{interleave: [v1, v2], credit: clicked, method: team}": "known methods are team_draft",
    "{interleave: [v1, v2], credit: clicked, length: 0}": "length",
    "{interleave: [v1, v2], credit: clicked, wait: 2s}": "leave nothing of the deadline, 2 s",
}


@pytest.mark.parametrize(("policy", "message"), WRONG.items(), ids=WRONG)
def test_a_wrong_policy_is_refused_with_the_way_out(policy: str, message: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        read_policy(endpoint_of(policy))
    assert message in str(caught.value)
    assert "Config" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "more", "message"),
    [
        ("{canary: v3, stable: v1, sticky: true}", {"key": None, "exclusive": None}, "sticky: the endpoint has no key"),
        ("{split: [v1, v2]}", {"key": None}, "exclusive: it divides keys, and the endpoint has none"),
        ("{canary: v1, stable: v2}", {}, "holdout: it gets the first arm, v1, and that is the canary"),
        ("{shadow: v1, serve: v2}", {}, "holdout: it gets the first arm, v1, and that is the shadow"),
        (
            "{canary: v1, stable: v2}",
            {"holdout": 0},
            "exclusive: requests outside the slice, 0 to 0.5, get the first arm, v1, and that is the canary: declare",
        ),
        (
            "{shadow: v1, serve: v2}",
            {"holdout": 0, "exclusive": {"group": "home", "slice": [0.1, 1]}},
            "exclusive: requests outside the slice, 0.1 to 1, get the first arm, v1, and that is the shadow: declare",
        ),
        (
            "{split: [v1, v2]}",
            {"log": {"sample": "50%"}},
            "only logged outputs can be scored by the truth, and log",
        ),
        ("{split: [v1, v2]}", {"log": {"drop": ["price"]}}, "and log.drop holds 'price'"),
    ],
)
def test_a_policy_fits_the_rest_of_its_endpoint(policy: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(Misconfigured, match="endpoint rank-home: ") as caught:
        read_policy(endpoint_of(policy, **more))
    assert message in str(caught.value)


@pytest.mark.parametrize("exclusive", [None, {"group": "home", "slice": ["0%", "100%"]}])
def test_the_first_arm_may_be_on_trial_if_every_request_takes_part(exclusive: Any) -> None:
    assert read_config(endpoint_of("{canary: v1, stable: v2}", holdout=0, exclusive=exclusive)) is not None


def test_drawing_needs_no_numerical_library() -> None:
    code = """
import sys
import router.state.view
from router.policies.declared import read_policy
from tests.router.declarations import POLICIES, endpoint_of
for policy in POLICIES.values():
    read_policy(endpoint_of(policy))
print("scipy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=".")
    assert done.stdout == "False\n"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["v1", "v2", "v3", "v9", "clicked", "spent", "5%", "200%", "1s", "30d", "0s", "thompson", "lints"]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just("bandit"), inner, max_size=4)
    ),
    max_leaves=12,
)
BASE = documents(ENDPOINT)[0]


def refused_or_read(data: Any) -> None:
    """Read a declaration to its end; anything but Misconfigured is a failure."""
    try:
        endpoint = read_endpoint(data, source="test")
        policy = read_policy(endpoint)
    except Misconfigured:
        return
    assert len(policy.first().weights) == len(endpoint.arms)


@given(ANYTHING)
def test_anything_as_a_policy_is_read_or_refused(policy: Any) -> None:
    refused_or_read({**BASE, "policy": policy})


@given(ANYTHING, ANYTHING)
def test_anything_as_feedback_is_read_or_refused(feedback: Any, reward: Any) -> None:
    refused_or_read({**BASE, "policy": {"split": ["v1"]}, "feedback": feedback})
    refused_or_read({**BASE, "policy": {"split": ["v1"]}, "feedback": {"rewards": {"r": reward}}})


KEYS = [
    "sticky",
    "shadow",
    "serve",
    "stable",
    "steps",
    "hold",
    "guardrails",
    "alpha",
    "on_promote",
    "timeout",
    "reward",
    "arms",
    "floor",
    "refresh",
    "discount",
    "noise",
    "prior",
    "epsilon",
    "kind",
    "rate",
    "features",
    "ridge",
    "scale",
    "method",
    "length",
    "credit",
    "output",
    "wait",
    "stop",
    "bandit",
    "sample",
    *WORDS,
]


@given(
    st.sampled_from(list(POLICIES.values())), st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1, max_size=3)
)
def test_anything_under_a_known_key_is_read_or_refused(policy: str, keys: dict[str, Any]) -> None:
    data = document(policy)
    refused_or_read({**data, "policy": {**data["policy"], **keys}})


@given(st.sampled_from(["horizon", "default", "type", "duplicates", "from", "score", "output"]), ANYTHING)
def test_anything_under_a_key_of_a_reward_is_read_or_refused(key: str, value: Any) -> None:
    for reward in ({"default": 0}, {"from": "truth", "score": "argmax"}, {"from": "truth", "score": "error"}):
        refused_or_read({**BASE, "policy": {"split": ["v1"]}, "feedback": {"rewards": {"r": {**reward, key: value}}}})


def test_a_policy_that_is_nested_for_ever_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for policy in ({"split": deep}, {"canary": "v3", "stable": deep}, {"bandit": deep}, {"x": deep}):
        with pytest.raises(Misconfigured):
            read_policy(read_endpoint({**BASE, "policy": policy}, source="test"))
