"""Bandits: the state does not depend on the order, one run equals the same run among many, the floor holds."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import invgamma, norm

from router.policies.counts import forget
from router.policies.epsilon import EpsilonGreedy
from router.policies.exp3 import Exp3
from router.policies.learning import JoinedRewards, Learning, one_run
from router.policies.thompson import GaussianThompson, Thompson
from router.policies.ucb import Ucb, kl_bound
from router.stats.arrays import ONE, Floats, choose
from tests.router import oracles

ARMS, RUNS, EVENTS = 4, 7, 900
FLOOR = 0.01

POLICIES: dict[str, Learning[Any]] = {
    "epsilon": EpsilonGreedy(arms=ARMS, floor=FLOOR, half_life=30.0),
    "kl": Ucb(arms=ARMS, floor=FLOOR, half_life=30.0),
    "ucb1": Ucb(arms=ARMS, floor=FLOOR, kind="ucb1"),
    "thompson": Thompson(arms=ARMS, floor=FLOOR, half_life=30.0),
    "known noise": GaussianThompson(arms=ARMS, floor=FLOOR, noise=0.5, half_life=30.0),
    "estimated noise": GaussianThompson(arms=ARMS, floor=FLOOR),
    "exp3": Exp3(arms=ARMS, floor=FLOOR, half_life=30.0),
}


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Learning[Any]:
    return POLICIES[request.param]


def history(seed: int = 1) -> JoinedRewards:
    random = np.random.default_rng(seed)
    return JoinedRewards(
        random.integers(RUNS, size=EVENTS),
        random.integers(ARMS, size=EVENTS),
        random.random(EVENTS),
        random.uniform(FLOOR, 1.0, EVENTS),
    )


def part(seen: JoinedRewards, places: Any) -> JoinedRewards:
    return JoinedRewards(*(getattr(seen, field.name)[places] for field in fields(JoinedRewards)))


def bytes_of(state: Any) -> bytes:
    return b"".join(array.tobytes() for array in astuple(state))


def test_any_order_and_any_batches_give_the_same_bytes(policy: Learning[Any]) -> None:
    seen = history()
    whole = policy.fold(policy.start(RUNS), seen)
    order = np.random.default_rng(2).permutation(EVENTS)
    state = policy.start(RUNS)
    for places in np.split(order, [1, 2, 100, 101, 500]):
        state = policy.fold(state, part(seen, places))
    assert bytes_of(state) == bytes_of(whole)


def test_one_run_is_the_same_as_it_is_among_many_bit_for_bit(policy: Learning[Any]) -> None:
    seen = history()
    many = policy.tick(policy.fold(policy.start(RUNS), seen), 3)
    weights = policy.weights(many)
    for run in range(RUNS):
        own = part(seen, seen.run == run)
        one = policy.tick(policy.fold(policy.start(1), one_run(*map(list, (own.arm, own.reward, own.propensity)))), 3)
        assert bytes_of(one) == b"".join(array[run].tobytes() for array in astuple(many))
        assert policy.weights(one)[0].tobytes() == weights[run].tobytes()


def test_probabilities_sum_to_one_and_none_is_below_the_floor(policy: Learning[Any]) -> None:
    certain = one_run([0] * 4000 + [1, 2, 3] * 1000, [0.9] * 4000 + [0.1] * 3000, [0.5] * 7000)
    for state in (policy.start(1), policy.fold(policy.start(1), certain), policy.fold(policy.start(RUNS), history())):
        weights = policy.weights(state)
        assert np.abs(weights.sum(axis=-1) - 1.0).max() < 1e-12
        assert weights.min() >= FLOOR * (1 - 1e-12)


def test_before_the_first_reward_all_arms_are_as_probable(policy: Learning[Any]) -> None:
    first = policy.first()
    assert first.number == 0
    assert first.weights == pytest.approx([1 / ARMS] * ARMS, abs=1e-12)


def test_many_ticks_at_once_are_the_same_as_one_by_one(policy: Learning[Any]) -> None:
    state = policy.fold(policy.start(RUNS), history())
    by_one = state
    for _ in range(5):
        by_one = policy.tick(by_one)
    assert bytes_of(policy.tick(state, 5)) == bytes_of(by_one)


def test_after_its_half_life_a_reward_counts_half() -> None:
    policy = Thompson(arms=2, half_life=600.0)
    state = policy.tick(policy.fold(policy.start(1), one_run([0, 0, 1], [1, 1, 0], [0.5] * 3)), 600)
    assert state.pulls[0] / ONE == pytest.approx([1.0, 0.5], rel=1e-3)
    assert state.rewards[0] / ONE == pytest.approx([1.0, 0.0], rel=1e-3)


def test_an_arm_that_became_another_one_is_forgotten_in_its_own_run_alone() -> None:
    policy = POLICIES["thompson"]
    state = policy.fold(policy.start(RUNS), history())
    after = forget(state, np.array([2]), np.array([1]))
    assert after.pulls[2, 1] == after.rewards[2, 1] == after.squares[2, 1] == 0
    assert (after.pulls != state.pulls).sum() == 1


def test_a_reward_out_of_range_counts_as_the_nearest_in_range() -> None:
    for policy in (POLICIES["thompson"], POLICIES["exp3"]):
        far, near = ([5.0, -3.0], [1.0, 0.0])
        states = [policy.fold(policy.start(1), one_run([0, 1], rewards, [0.5, 0.5])) for rewards in (far, near)]
        assert bytes_of(states[0]) == bytes_of(states[1])


@pytest.mark.parametrize("floor", [-0.1, 0.26])
def test_a_floor_that_the_arms_cannot_all_have_is_refused(floor: float) -> None:
    for kind in (Thompson, Exp3):
        with pytest.raises(ValueError, match=r"4 arms can have at most 0\.25 each"):
            kind(arms=4, floor=floor)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Thompson, {"half_life": 0.0}),
        (Exp3, {"half_life": -1.0}),
        (Thompson, {"prior": (0.0, 1.0)}),
        (EpsilonGreedy, {"epsilon": 1.1}),
        (GaussianThompson, {"noise": 0.0}),
        (GaussianThompson, {"prior_deviation": -1.0}),
    ],
)
def test_a_wrong_number_is_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        kind(arms=4, **wrong)


def test_epsilon_is_shared_by_all_arms_and_the_rest_by_the_best() -> None:
    policy = EpsilonGreedy(arms=3, epsilon=0.3)
    state = policy.fold(policy.start(1), recorded())
    assert policy.weights(state)[0] == pytest.approx([0.8, 0.1, 0.1])
    tied = policy.fold(policy.start(1), one_run([0, 1, 2], [1, 1, 0], [1 / 3] * 3))
    assert policy.weights(tied)[0] == pytest.approx([0.45, 0.45, 0.1])


def recorded() -> JoinedRewards:
    return one_run(oracles.ARMS, oracles.REWARDS, [1.0] * len(oracles.ARMS))


def test_means_counts_and_bounds_are_those_of_mabwiser() -> None:
    state = Thompson(arms=3).fold(Thompson(arms=3).start(1), recorded())
    assert (state.rewards / state.pulls)[0] == pytest.approx(oracles.GREEDY_MEANS, abs=1e-15)
    successes, failures = Thompson(arms=3).posterior(state)
    assert successes[0].tolist() == oracles.THOMPSON_SUCCESSES
    assert failures[0].tolist() == oracles.THOMPSON_FAILURES
    assert Ucb(arms=3, kind="ucb1").bounds(state)[0] == pytest.approx(oracles.UCB1_BOUNDS, abs=1e-14)


@pytest.mark.parametrize("noise", [0.8, None])
def test_a_gaussian_posterior_is_the_prior_times_the_likelihood_of_each_reward(noise: float | None) -> None:
    """Multiplied out on a grid of means and, where the noise is not known, variances: after no reward, and after four.

    The variance is inverse gamma with prior_pulls + 1 degrees of freedom, the mean's a prior_pulls-th of it.
    """
    seen = one_run([0] * 4, [1.5, 2.5, 1.0, 4.0], [1.0] * 4)
    policy = GaussianThompson(arms=2, prior_mean=1.0, prior_deviation=2.0, prior_pulls=3.0, noise=noise)
    state = policy.fold(policy.start(1), seen)
    mean = np.linspace(-29.0, 31.0, 6001)
    if noise is not None:
        variance = np.array([[noise**2]])
        prior = norm.pdf(mean, 1.0, 2.0)[None]
    else:
        variance = np.geomspace(0.05, 5000.0, 201)[:, None]
        prior = variance * invgamma.pdf(variance, 2.0, scale=8.0) * norm.pdf(mean, 1.0, np.sqrt(variance / 3.0))
    likely = np.prod([norm.pdf(reward, mean, np.sqrt(variance)) for reward in seen.reward], axis=0)
    for arm, density in enumerate((prior * likely, prior)):
        below = np.cumsum(density.sum(axis=0)) / density.sum()
        for level in (0.05, 0.5, 0.8):
            expected = float(np.interp(level, below, mean))
            assert policy.quantile(state, level)[0, arm] == pytest.approx(expected, abs=0.01)


def test_the_kl_bound_is_the_greatest_mean_within_the_budget() -> None:
    random = np.random.default_rng(3)
    mean = np.concatenate([np.zeros(50), np.ones(50), random.random(900)])
    budget = np.exp(random.uniform(-12.0, 3.0, 1000))
    low, high = mean.copy(), np.ones_like(mean)
    for _ in range(100):
        middle = (low + high) / 2
        over = rel_entr(mean, middle) + rel_entr(1 - mean, 1 - middle) > budget
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    assert np.abs(kl_bound(mean, budget) - low).max() < 1e-9


def test_exp3_counts_a_late_reward_with_the_propensity_of_its_decision() -> None:
    """Estimated mean losses are the true ones to 4 standard errors (6e-5 two-sided, for each of 2 arms)."""
    random = np.random.default_rng(4)
    policy = Exp3(arms=2)
    propensity = np.where(np.arange(40_000) < 20_000, 0.9, 0.2)
    arm = (random.random(40_000) >= propensity).astype(np.int64)
    logged = np.where(arm == 0, propensity, 1.0 - propensity)
    reward = (random.random(40_000) < np.array([0.5, 0.6])[arm]).astype(np.float64)
    state = policy.fold(policy.start(1), one_run(list(arm), list(reward), list(logged)))
    mean_loss = state.losses[0] / ONE / 40_000
    for each, loss in enumerate((0.5, 0.4)):
        terms = np.where(arm == each, (1.0 - reward) / logged, 0.0)
        assert abs(mean_loss[each] - loss) < 4 * terms.std() / 200


def test_exp3_stays_finite_after_a_million_losses_of_one_arm() -> None:
    policy = Exp3(arms=3, rate=0.5)
    state = policy.fold(policy.start(1), one_run([0] * 1000, [0.0] * 1000, [1e-3] * 1000))
    assert policy.weights(state)[0] == pytest.approx([0.0, 0.5, 0.5])


def test_draws_have_the_probabilities_and_an_arm_without_one_is_never_drawn() -> None:
    """Shares to 4.5 standard errors: a false alarm once in 50 000."""
    weights: Floats = np.array([[0.5, 0.0, 0.3, 0.2], [0.0, 0.001, 0.999, 0.0]])
    drawn = choose(weights, np.random.default_rng(5).random((2, 100_000)))
    counts = np.stack([np.bincount(row, minlength=4) for row in drawn]) / 100_000
    assert (counts[weights == 0] == 0).all()
    assert (np.abs(counts - weights) <= 4.5 * np.sqrt(weights * (1 - weights) / 100_000)).all()
