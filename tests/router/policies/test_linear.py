"""Linear models of the reward: right, the same for one run as for many, and worth their features."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from router.policies.learning import JoinedRewards, one_run
from router.policies.linear import LinThompson, LinUcb
from router.policies.linear_models import LinearModels
from router.stats.arrays import Floats
from tests.router import oracles

ARMS, DIMENSIONS, RUNS, EVENTS = 3, 5, 4, 400


def history() -> tuple[JoinedRewards, Floats]:
    random = np.random.default_rng(1)
    run, arm = random.integers(RUNS, size=EVENTS), random.integers(ARMS, size=EVENTS)
    return JoinedRewards(run, arm, random.random(EVENTS), np.full(EVENTS, 0.3)), random.standard_normal(
        (EVENTS, DIMENSIONS)
    )


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
        assert state.root[0].tobytes() == many.root[run].tobytes()
        assert state.rewarded[0].tobytes() == many.rewarded[run].tobytes()
        assert policy.weights(state, asked[run : run + 1])[0].tobytes() == weights[run].tobytes()


def test_a_batch_is_the_same_as_one_by_one_and_another_command_is_equal_to_1e9() -> None:
    policy = LinUcb(arms=ARMS, dimensions=DIMENSIONS)
    seen, features = history()
    whole = policy.fold(policy.start(RUNS), seen, features)
    for order, exact in ((np.arange(EVENTS), True), (np.random.default_rng(3).permutation(EVENTS), False)):
        state = policy.start(RUNS)
        for places in np.array_split(order, 7):
            some = JoinedRewards(seen.run[places], seen.arm[places], seen.reward[places], seen.propensity[places])
            state = policy.fold(state, some, features[places])
        assert np.abs(inverses(state) - inverses(whole)).max() < (1e-300 if exact else 1e-9)
        assert np.abs(state.rewarded - whole.rewarded).max() < (1e-300 if exact else 1e-9)


def inverses(models: LinearModels) -> Floats:
    found: Floats = np.einsum("rkij,rklj->rkil", models.root, models.root)
    return found


def test_the_inverse_is_the_inverse_after_many_updates() -> None:
    policy = LinUcb(arms=1, dimensions=DIMENSIONS, floor=0.0)
    features = np.random.default_rng(4).standard_normal((5000, DIMENSIONS))
    seen = one_run([0] * 5000, [1.0] * 5000, [1.0] * 5000)
    state = policy.fold(policy.start(1), seen, features)
    direct = np.linalg.inv(np.eye(DIMENSIONS) + features.T @ features)
    assert np.abs(inverses(state)[0, 0] - direct).max() < 1e-12 * np.abs(direct).max()


@pytest.mark.parametrize("ridge", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("low", "high", "repeated", "off"),
    [(0.0, 1e6, False, 1e-8), (-1e6, 1e6, False, 1e-8), (9e5, 1e6, False, 1e-8), (0.0, 1e6, True, 1e-3)],
)
def test_features_of_any_size_keep_their_digits(
    low: float, high: float, repeated: bool, off: float, ridge: float
) -> None:
    """Predictions, in their own deviations, beside exact rational arithmetic; features may repeat each other."""
    random = np.random.default_rng(7)
    features = np.column_stack([np.ones(300), np.rint(random.uniform(low, high, (300, 2)))])
    if repeated:
        features = np.column_stack([features, 2.0 * features[:, 1]])
    rewards = random.integers(2, size=300).astype(np.float64)
    policy = LinUcb(arms=1, dimensions=features.shape[1], floor=0.0, ridge=ridge)
    state = policy.fold(policy.start(1), one_run([0] * 300, list(rewards), [1.0] * 300), features)
    exact = Regression(features, rewards, ridge)
    for asked in features[:20]:
        mean, deviation = (float(found[0, 0]) for found in policy.predicted(state, asked[None]))
        true_mean, true_deviation = exact.predicted(asked)
        assert abs(mean - true_mean) < off * true_deviation
        assert deviation == pytest.approx(true_deviation, rel=off)


class Regression:
    """A ridge regression in rational numbers."""

    def __init__(self, features: Floats, rewards: Floats, ridge: float) -> None:
        rows = [list(map(Fraction, row)) for row in features.tolist()]
        size, rewarded = len(rows[0]), list(map(Fraction, rewards.tolist()))
        self._precision = [
            [sum((row[i] * row[j] for row in rows), Fraction(ridge) * (i == j)) for j in range(size)]
            for i in range(size)
        ]
        self._rewarded = [sum(row[i] * reward for row, reward in zip(rows, rewarded, strict=True)) for i in range(size)]

    def predicted(self, asked: Floats) -> tuple[float, float]:
        x = list(map(Fraction, asked.tolist()))
        solved = self._solved(x)
        mean = sum(one * other for one, other in zip(solved, self._rewarded, strict=True))
        return float(mean), float(sum(one * other for one, other in zip(solved, x, strict=True))) ** 0.5

    def _solved(self, right: list[Fraction]) -> list[Fraction]:
        """Return A^-1 right, by Gauss's elimination."""
        rows = [[*row, last] for row, last in zip(self._precision, right, strict=True)]
        for at, pivot in enumerate(rows):
            rows[at] = [value / pivot[at] for value in pivot]
            for other, row in enumerate(rows):
                if other != at:
                    rows[other] = [value - row[at] * own for value, own in zip(row, rows[at], strict=True)]
        return [row[-1] for row in rows]


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
    state: LinearModels = policy.fold(policy.start(RUNS), seen, features)
    asked = np.random.default_rng(5).standard_normal((RUNS, DIMENSIONS))
    mean, deviation = policy.predicted(state, asked)
    random = np.random.default_rng(6).standard_normal((100_000, RUNS, ARMS))
    best = (mean + policy.scale * deviation * random).argmax(axis=-1)
    drawn = (best[:, :, None] == np.arange(ARMS)).mean(axis=0)
    shares = policy.weights(state, asked)
    assert (np.abs(drawn - shares) < 5e-4 + 4.5 * np.sqrt(shares * (1 - shares) / 100_000)).all()
