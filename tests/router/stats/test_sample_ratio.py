"""Shares of arms that are not as they should be are noticed, and those that are stay quiet at any number of looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from router.stats.arrays import choose
from router.stats.sample_ratio import ALARM, RatioTest, log_wealth
from tests.router import oracles

LIMIT = math.log(ALARM)


@pytest.mark.parametrize(("shares", "strength", "counts", "expected"), oracles.MULTINOMIAL)
def test_the_wealth_is_that_of_savvi(shares: list[float], strength: float, counts: list[int], expected: float) -> None:
    assert log_wealth(np.array([counts]), np.array(shares), strength)[0] == pytest.approx(expected, abs=1e-11)


def test_an_arm_that_should_get_nothing_and_does_is_an_alarm_at_once() -> None:
    found = log_wealth(np.array([[5, 5, 0], [5, 5, 1]]), np.array([0.5, 0.5, 0.0]))
    assert found[0] < LIMIT
    assert found[1] == math.inf


def test_right_shares_are_left_alone_and_wrong_ones_found() -> None:
    """1000 experiments, 200 looks each: at most 0.1 % + 3 standard errors = 0.4 % alarms; 52/48 in 40 000 requests."""
    random = np.random.default_rng(1)
    for truth, low, high in ((0.5, 0.0, 0.004), (0.52, 0.95, 1.0)):
        first = np.cumsum(random.binomial(200, truth, (200, 1000)), axis=0)
        wealth = [
            log_wealth(np.stack([row, 200 * (look + 1) - row], axis=-1), np.array([0.5, 0.5]))
            for look, row in enumerate(first)
        ]
        alarms = (np.max(wealth, axis=0) >= LIMIT).mean()
        assert low <= alarms <= high


def test_changing_shares_are_judged_by_the_probabilities_of_each_draw() -> None:
    """300 experiments of 3000 draws: at most 0.1 % + 3 standard errors alarms, 0.65 %: one. A lost 30 % is found."""
    random = np.random.default_rng(2)
    test = RatioTest(3)
    states = {"whole": test.start(300), "partly lost": test.start(300)}
    alarms = {name: np.zeros(300, np.bool_) for name in states}
    for _ in range(100):
        probabilities = random.dirichlet([2.0, 2.0, 2.0], 300)
        arm = choose(probabilities, random.random((300, 30))).ravel()
        run, rows = np.repeat(np.arange(300), 30), np.repeat(probabilities, 30, axis=0)
        logged = (arm != 1) | (random.random(len(arm)) >= 0.3)
        for name, some in (("whole", np.ones(len(arm), np.bool_)), ("partly lost", logged)):
            states[name] = test.fold(states[name], run[some], arm[some], rows[some])
            alarms[name] |= test.log_wealth(states[name]) >= LIMIT
    assert alarms["whole"].sum() <= 1
    assert alarms["partly lost"].mean() > 0.95


def test_changing_shares_fold_to_the_same_bytes_in_any_order() -> None:
    random = np.random.default_rng(3)
    test, probabilities = RatioTest(4), random.dirichlet([1.0] * 4, 200)
    arm, run = random.integers(4, size=200), random.integers(3, size=200)
    whole, order = test.fold(test.start(3), run, arm, probabilities), random.permutation(200)
    assert test.fold(test.start(3), run[order], arm[order], probabilities[order]).tobytes() == whole.tobytes()
