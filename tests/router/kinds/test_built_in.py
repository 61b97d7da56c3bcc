"""A learner begins where routers draw from before they have heard of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from broker.records.endpoint import read_endpoint
from broker.records.rewards import Reward
from router.declaration.policy import read_config
from router.kinds.bandit import BanditConfig
from router.kinds.canary import CanaryConfig
from router.policies.canary import BadEvents, RewardDrop
from router.policies.declared import read_policy
from router.policies.exp3 import Exp3
from router.policies.learned import LearnedLinearPolicy
from router.policies.learning import one_run
from router.policies.linear import LinThompson
from router.policies.snapshot import masked
from router.policies.thompson import GaussianThompson
from router.stats.packing import packed
from tests.router.declarations import POLICIES, endpoint_of

BANDITS = [
    *[policy for policy in POLICIES.values() if "bandit" in policy and "canary" not in policy],
    "{bandit: thompson, reward: clicked, prior: [0.01, 1000000], floor: 33%}",
    "{bandit: thompson, reward: clicked, prior: [1000000, 0.01], discount: 365d}",
    "{bandit: lints, reward: clicked, features: [a], scale: 100, ridge: 0.001}",
]
CANARIES = [policy for policy in POLICIES.values() if "canary" in policy]


def bandit_of(policy: str) -> tuple[BanditConfig, Reward]:
    endpoint = endpoint_of(policy)
    config = read_config(endpoint)
    assert isinstance(config, BanditConfig)
    return config, endpoint.feedback.rewards[config.reward]


def canary_config(policy: str) -> CanaryConfig:
    config = read_config(endpoint_of(policy))
    assert isinstance(config, CanaryConfig)
    return config


@pytest.mark.parametrize("policy", BANDITS)
def test_a_bandit_begins_with_the_weights_that_routers_draw_from(policy: str) -> None:
    config, reward = bandit_of(policy)
    endpoint = endpoint_of(policy)
    learned = config.learning_from(reward, len(config.arms)).first().weights
    drawn = read_policy(endpoint).first().weights
    used = [weight for arm, weight in zip(endpoint.arms, drawn, strict=True) if arm in config.arms]
    assert learned == pytest.approx(used, rel=1e-9)
    assert sum(drawn) == pytest.approx(1.0)
    assert config.learning_from(reward, len(config.arms)).name == read_policy(endpoint).name


@pytest.mark.parametrize("policy", CANARIES)
def test_a_canary_begins_with_the_weights_that_routers_draw_from(policy: str) -> None:
    endpoint = endpoint_of(policy)
    canary, drawn = canary_config(policy).state_machine(endpoint), read_policy(endpoint)
    assert canary.first().weights == pytest.approx(drawn.first().weights, rel=1e-9)
    assert (canary.name, canary.sticky) == (drawn.name, drawn.sticky)


def test_a_bandits_fold_has_the_declared_settings() -> None:
    config, reward = bandit_of(POLICIES["gaussian thompson"])
    assert config.learning_from(reward, 3) == GaussianThompson(arms=3, floor=0.002, half_life=21_600.0)
    config, reward = bandit_of(POLICIES["exp3 at a rate"])
    assert config.learning_from(reward, 3) == Exp3(arms=3, floor=0.002, half_life=86_400.0, rate=0.1)
    config, reward = bandit_of(POLICIES["exp3"])
    assert config.learning_from(reward, 3) == Exp3(arms=3, floor=0.01)
    config, reward = bandit_of(POLICIES["lints"])
    assert config.learning_from(reward, 3) == LinThompson(arms=3, dimensions=9, ridge=2.0, floor=0.005, scale=0.3)


def test_a_canarys_state_machine_has_the_declared_settings() -> None:
    canary = canary_config(POLICIES["canary beside a bandit"]).state_machine(endpoint_of("{split: [v1]}"))
    assert canary.guardrails == (BadEvents(1.5, 0.001), BadEvents(1.3), RewardDrop(0.02))
    assert (canary.canary, canary.stable) == (2, (0.5, 0.5, 0.0))
    assert (canary.hold_requests, canary.hold_ticks, canary.timeout_ticks) == (500, 600, 86_400)
    assert canary.on_no_data == "rollback"


def test_a_real_reward_is_not_learned_as_if_it_were_a_share() -> None:
    config, _ = bandit_of(POLICIES["thompson"])
    with pytest.raises(ValueError, match="clicked is real"):
        config.learning_from(Reward(type="real", default=0.0), 3)


@pytest.mark.parametrize("arms", [2, 3, 5])
@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_a_request_is_weighed_as_the_policy_weighs_it(bandit: str, arms: int) -> None:
    """Of two and three normals a request has the exact chances, and arrays those of a quadrature (5e-4)."""
    light, learning = linear(bandit, arms, among=arms)
    random = np.random.default_rng(3)
    vectors, rewards = random.standard_normal((200, 3)), list(random.random(200))
    seen = one_run([n % arms for n in range(200)], rewards, [1.0] * 200)
    state = learning.fold(learning.start(1), seen, vectors)
    weigh = light.weigher_from(packed(state))
    off = 1e-12 if bandit == "linucb" or arms > 3 else 5e-4
    for vector in random.standard_normal((100, 3)):
        assert weigh.weights(list(vector)) == pytest.approx(learning.weights(state, vector[None])[0], abs=off)


@pytest.mark.parametrize("arms", [2, 3, 5])
@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_a_request_is_drawn_by_its_weights_for_every_set_of_ready_arms(bandit: str, arms: int) -> None:
    light, learning = linear(bandit, arms, among=arms)
    random = np.random.default_rng(arms)
    seen = one_run([n % arms for n in range(200)], list(random.random(200)), [1.0] * 200)
    models = packed(learning.fold(learning.start(1), seen, random.standard_normal((200, 3))))
    weigh = light.weigher_from(models)
    numbers = (np.arange(200) + 0.5) / 200
    for vector in random.standard_normal((10, 3)).tolist():
        for mask in range(1 << arms):
            probabilities = masked(weigh.weights(vector), mask)
            picks = [weigh.pick(vector, mask, number) for number in numbers.tolist()]
            turns = sum(one != other for (one, _), (other, _) in pairwise(picks))
            assert turns < arms  # one piece of [0, 1) for each arm
            for arm, probability in enumerate(probabilities):
                assert sum(one == arm for one, _ in picks) == pytest.approx(200 * probability, abs=1.0)
            assert [propensity for _, propensity in picks] == pytest.approx(
                [probabilities[arm] for arm, _ in picks], abs=1e-12
            )


@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_arms_beside_the_bandit_weigh_nothing(bandit: str) -> None:
    light, learning = linear(bandit, arms=4, among=2)
    weights = light.weigher_from(packed(learning.start(1))).weights([1.0, 0.3, -2.0])
    assert len(weights) == 4
    assert [weights[arm] for arm in range(4) if arm not in light.among] == [0.0, 0.0]
    assert [weights[arm] for arm in light.among] == pytest.approx([0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize("arms", [2, 3, 5])
@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_a_request_of_which_nothing_is_predicted_goes_to_all_arms_alike(bandit: str, arms: int) -> None:
    light, learning = linear(bandit, arms, among=arms)
    seen = one_run([n % arms for n in range(20)], [n / 20 for n in range(20)], [1.0] * 20)
    state = learning.fold(learning.start(1), seen, np.ones((20, 3)))
    weigh = light.weigher_from(packed(state))
    assert weigh.weights([0.0, 0.0, 0.0]) == pytest.approx([1 / arms] * arms, abs=1e-9)
    assert weigh.pick([0.0, 0.0, 0.0], (1 << arms) - 1, 0.999)[1] == pytest.approx(1 / arms, abs=1e-9)


@pytest.mark.parametrize("bandit", ["linucb", "lints"])
def test_models_that_no_learner_has_made_are_refused(bandit: str) -> None:
    """Their squares' products would be infinite."""
    light, learning = linear(bandit, arms=3, among=3)
    models = learning.start(1)
    for size, refused in ((1e59, False), (1e61, True), (np.nan, True)):
        models.root[0, 1, 0, 2] = size
        document = packed(models)
        if not refused:
            assert sum(light.weigher_from(document).weights([1.0, 1e6, 1e6])) == pytest.approx(1)
            continue
        with pytest.raises(ValueError, match=r"coefficients|finite|number"):
            light.weigher_from(document)


@pytest.mark.parametrize("arms", range(2, 9))
def test_arms_that_nothing_is_known_of_share_alike_however_sums_are_rounded(arms: int) -> None:
    light, learning = linear("linucb", arms, among=arms)
    random = np.random.default_rng(arms)
    seen = one_run([0] * 50, [0.0] * 50, [1.0] * 50)
    models = packed(learning.fold(learning.start(1), seen, random.standard_normal((50, 3))))
    weigh = light.weigher_from(models)
    for vector in random.standard_normal((100, 3)) * 10.0 ** random.integers(-3, 6, size=(100, 3)):
        weights = weigh.weights(vector.tolist())
        assert len(set(weights[1:])) == 1
        assert weights[1] > weights[0]


def linear(bandit: str, arms: int, among: int) -> tuple[LearnedLinearPolicy, Any]:
    """Return a linear policy over the last arms of an endpoint, and its fold."""
    names = [f"arm{arm}" for arm in range(arms)]
    declaration = {
        "endpoint": "e",
        "arms": {name: f"m@{arm + 1}" for arm, name in enumerate(names)},
        "policy": {
            "bandit": bandit,
            "reward": "clicked",
            "floor": 0.05,
            "features": ["x", "y"],
            "arms": names[-among:],
        },
        "feedback": {"rewards": {"clicked": {"default": 0}}},
    }
    light = read_policy(read_endpoint(declaration, source="test"))
    assert isinstance(light, LearnedLinearPolicy)
    return light, light.learning()
