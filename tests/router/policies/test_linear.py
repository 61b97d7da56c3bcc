"""Linear models of the reward: right, the same for one run as for many, and worth their features."""

from __future__ import annotations

import numpy as np
import pytest

from router.policies.base import Seen, one_run
from router.policies.linear import LinThompson, LinUcb, Models
from router.stats.arrays import Floats
from tests.router import oracles

ARMS, DIMENSIONS, RUNS, EVENTS = 3, 5, 4, 400


def history() -> tuple[Seen, Floats]:
    random = np.random.default_rng(1)
    run, arm = random.integers(RUNS, size=EVENTS), random.integers(ARMS, size=EVENTS)
    return Seen(run, arm, random.random(EVENTS), np.full(EVENTS, 0.3)), random.standard_normal((EVENTS, DIMENSIONS))


@pytest.mark.parametrize("kind", [LinUcb, LinThompson])
def test_one_run_is_the_same_as_it_is_among_many_bit_for_bit(kind: type[LinUcb | LinThompson]) -> None:
    policy = kind(arms=ARMS, dimensions=DIMENSIONS)
    seen, features = history()
    asked = np.random.default_rng(2).standard_normal((RUNS, DIMENSIONS))
    many = policy.fold(policy.start(RUNS), seen, features)
    weights = policy.weights(many, asked)
    assert np.abs(weights.sum(axis=-1) - 1.0).max() < 1e-12
    assert weights.min() >= policy.floor * (1 - 1e-12)
    for run in range(RUNS):
        own = seen.run == run
        one = one_run(list(seen.arm[own]), list(seen.reward[own]), list(seen.propensity[own]))
        state = policy.fold(policy.start(1), one, features[own])
        assert state.inverse[0].tobytes() == many.inverse[run].tobytes()
        assert state.rewarded[0].tobytes() == many.rewarded[run].tobytes()
        assert policy.weights(state, asked[run : run + 1])[0].tobytes() == weights[run].tobytes()


def test_a_batch_is_the_same_as_one_by_one_and_another_order_is_equal_to_1e9() -> None:
    policy = LinUcb(arms=ARMS, dimensions=DIMENSIONS)
    seen, features = history()
    whole = policy.fold(policy.start(RUNS), seen, features)
    for order, exact in ((np.arange(EVENTS), True), (np.random.default_rng(3).permutation(EVENTS), False)):
        state = policy.start(RUNS)
        for places in np.array_split(order, 7):
            some = Seen(seen.run[places], seen.arm[places], seen.reward[places], seen.propensity[places])
            state = policy.fold(state, some, features[places])
        assert np.abs(state.inverse - whole.inverse).max() < (1e-300 if exact else 1e-9)
        assert np.abs(state.rewarded - whole.rewarded).max() < (1e-300 if exact else 1e-9)


def test_the_inverse_is_the_inverse_after_many_updates() -> None:
    policy = LinUcb(arms=1, dimensions=DIMENSIONS, floor=0.0)
    features = np.random.default_rng(4).standard_normal((5000, DIMENSIONS))
    seen = one_run([0] * 5000, [1.0] * 5000, [1.0] * 5000)
    state = policy.fold(policy.start(1), seen, features)
    direct = np.linalg.inv(np.eye(DIMENSIONS) + features.T @ features)
    assert np.abs(state.inverse[0, 0] - direct).max() < 1e-12 * np.abs(direct).max()


def test_the_bounds_of_linucb_are_those_of_mabwiser() -> None:
    policy = LinUcb(arms=3, dimensions=3)
    seen = one_run(oracles.ARMS, oracles.REWARDS, [1.0] * len(oracles.ARMS))
    state = policy.fold(policy.start(1), seen, np.array(oracles.FEATURES))
    for asked, bounds in zip(oracles.LINUCB_ASKED, oracles.LINUCB_BOUNDS, strict=True):
        mean, deviation = policy.predicted(state, np.array([asked]))
        assert (mean + policy.alpha * deviation)[0] == pytest.approx(bounds, abs=1e-14)


def test_linear_thompson_is_as_probable_as_samples_of_its_predictions() -> None:
    """Each share to 5e-4 and 4.5 standard errors: a false alarm once in 50 000."""
    policy = LinThompson(arms=ARMS, dimensions=DIMENSIONS, floor=0.0, scale=0.5)
    seen, features = history()
    state: Models = policy.fold(policy.start(RUNS), seen, features)
    asked = np.random.default_rng(5).standard_normal((RUNS, DIMENSIONS))
    mean, deviation = policy.predicted(state, asked)
    random = np.random.default_rng(6).standard_normal((100_000, RUNS, ARMS))
    best = (mean + policy.scale * deviation * random).argmax(axis=-1)
    drawn = (best[:, :, None] == np.arange(ARMS)).mean(axis=0)
    shares = policy.weights(state, asked)
    assert (np.abs(drawn - shares) < 5e-4 + 4.5 * np.sqrt(shares * (1 - shares) / 100_000)).all()
