"""A declared policy in made-up traffic: through its own functions, and each run as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from router.policies.epsilon import EpsilonGreedy
from router.policies.exp3 import Exp3
from router.policies.learning import Learning
from router.policies.thompson import Thompson
from router.policies.ucb import Ucb
from router.simulation.bandit import Traffic, course, walk
from router.simulation.clicks import ClickWorld, lists_until_proven
from router.stats.arrays import Floats

RUNS = 5
TRAFFIC = Traffic(means=np.array([0.2, 0.5, 0.4]), steps=12, every=30, ticks=5, wait=2)
POLICIES: Sequence[Learning[Any]] = (
    Thompson(arms=3, floor=0.01, half_life=60.0),
    EpsilonGreedy(arms=3, epsilon=0.1),
    Ucb(arms=3, floor=0.02),
    Exp3(arms=3, floor=0.01),
)


class Some:
    """The numbers that some runs of many get."""

    def __init__(self, seed: int, runs: slice) -> None:
        self._random = np.random.default_rng(seed)
        self._runs = runs

    def random(self, size: tuple[int, ...]) -> Floats:
        """Return as many as all runs get, cut down to these."""
        return self._random.random((RUNS, *size[1:]))[self._runs]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_run_among_many_equals_the_run_alone_bit_for_bit(policy: Learning[Any]) -> None:
    many = list(walk(policy, TRAFFIC, RUNS, Some(1, slice(None)), Some(2, slice(None))))
    for run in range(RUNS):
        own = slice(run, run + 1)
        alone = list(walk(policy, TRAFFIC, 1, Some(1, own), Some(2, own)))
        assert all(one.tobytes() == other[own].tobytes() for one, other in zip(alone, many, strict=True))


def test_nothing_is_learnt_before_a_horizon_is_over() -> None:
    weights = list(walk(Thompson(arms=3), TRAFFIC, RUNS, Some(1, slice(None)), Some(2, slice(None))))
    assert all(np.array_equal(weights[0], weights[step]) for step in (1, 2))
    assert not np.array_equal(weights[0], weights[3])


def test_the_best_arm_gets_most_and_the_cost_of_exploring_is_counted() -> None:
    traffic = Traffic(means=np.array([0.1, 0.6]), steps=60, every=20)
    found = course(Thompson(arms=2, floor=0.01), traffic, 20, 1)
    assert (found.settled >= 0).all()
    assert found.weights[-1, 1] > 0.9
    assert 0.0 < found.regret.mean() < 60 * 20 * 0.25 / 3
    again = course(Thompson(arms=2, floor=0.01), traffic, 20, 1)
    assert np.array_equal(found.weights, again.weights)


def test_equal_rankers_are_seldom_proven_different_and_others_soon() -> None:
    """100 runs at alpha 5 %: at most 5 % + 3 standard errors = 11.5 %."""
    same = lists_until_proven(ClickWorld(noise=(0.2, 0.2)), "team_draft", 0.05, 100, 1000, 1)
    assert (same > 0).mean() <= 0.115
    other = lists_until_proven(ClickWorld(noise=(0.02, 0.8)), "team_draft", 0.05, 50, 5000, 1)
    assert (other > 0).all()
