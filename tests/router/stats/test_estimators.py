"""Another policy's value from a log: right, with intervals that cover it, and refused where the log cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from router.stats.arrays import Floats, choose
from router.stats.estimators import Estimate, doubly_robust, ips, snips
from tests.router import oracles

LOGS, DECISIONS = 2000, 1000
TRUTH = np.array([0.5, 0.6, 0.3])
LOGGING, TARGET = np.array([[0.5, 0.3, 0.2]]), np.array([0.2, 0.6, 0.2])
VALUE = float(TRUTH @ TARGET)
Estimator = Callable[[Floats, Floats, Floats], Estimate]

ESTIMATORS: dict[str, Estimator] = {
    "ips": lambda reward, weight, _arm: ips(reward, weight),
    "snips": lambda reward, weight, _arm: snips(reward, weight),
    "doubly robust": lambda reward, weight, arm: doubly_robust(
        reward, weight, np.array([0.4, 0.5, 0.5])[arm.astype(int)], np.full(reward.shape, TARGET @ [0.4, 0.5, 0.5])
    ),
}


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_value_is_found_and_its_interval_covers_it_as_often_as_it_says(name: str) -> None:
    """2000 logs: the mean error to 4 standard errors, coverage of a 95 % interval within 93 to 97 % (4.1 of them)."""
    random = np.random.default_rng(1)
    arm = choose(np.repeat(LOGGING, LOGS, axis=0), random.random((LOGS, DECISIONS)))
    reward = (random.random(arm.shape) < TRUTH[arm]).astype(np.float64)
    found = ESTIMATORS[name](reward, (TARGET / LOGGING[0])[arm], arm.astype(np.float64))
    assert not found.refused.any()
    assert abs(found.value.mean() - VALUE) < 4 * found.value.std() / math.sqrt(LOGS) + 1e-4
    assert 0.93 <= ((found.low <= VALUE) & (found.high >= VALUE)).mean() <= 0.97


def test_the_values_are_those_of_pybandits() -> None:
    """Its doubly robust estimator takes the mean over the other policy's arms for the logged arm's prediction, too."""
    arm = oracles.LOGGED_ARM
    weight = (oracles.TARGET[arm] / oracles.LOGGED_PROPENSITY)[None]
    reward = oracles.LOGGED_REWARD[None]
    expected = (oracles.PREDICTED @ oracles.TARGET)[None]
    assert ips(reward, weight).value[0] == pytest.approx(oracles.IPS, abs=1e-12)
    assert snips(reward, weight).value[0] == pytest.approx(oracles.SNIPS, abs=1e-12)
    as_there = doubly_robust(reward, weight, expected, expected)
    assert as_there.value[0] == pytest.approx(oracles.DOUBLY_ROBUST, abs=1e-12)


def test_good_predictions_make_the_interval_narrow_and_leave_the_value_right() -> None:
    random = np.random.default_rng(3)
    arm = choose(LOGGING, random.random((1, 20_000)))
    reward = TRUTH[arm] + 0.01 * random.standard_normal(arm.shape)
    weight = (TARGET / LOGGING[0])[arm]
    found, plain = doubly_robust(reward, weight, TRUTH[arm], np.full(arm.shape, VALUE)), ips(reward, weight)
    assert found.low[0] < VALUE < found.high[0]
    assert found.high[0] - found.low[0] < 0.1 * (plain.high[0] - plain.low[0])


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (np.r_[np.full(998, 0.0), [500.0, 500.0]], "two decisions carry everything"),
        (np.full(1000, 1.2), "propensities that are not those of the log"),
        (np.full(1000, 0.8), "as much too low"),
        (np.zeros(1000), "nothing that the other policy would have done"),
        (np.ones(99), "too few decisions"),
    ],
)
def test_estimates_without_enough_evidence_are_refused(weights: Floats, why: str) -> None:
    reward = (np.arange(len(weights)) % 2).astype(np.float64)[None]
    for estimate in (ips, snips):
        found = estimate(reward, weights[None])
        assert found.refused[0], why
        assert np.isnan([found.value[0], found.low[0], found.high[0]]).all()


def test_one_log_is_the_same_as_it_is_among_many_bit_for_bit() -> None:
    random = np.random.default_rng(2)
    reward, weight = random.random((5, 500)), random.uniform(0.6, 1.4, (5, 500))
    many = snips(reward, weight)
    for run in range(5):
        one = snips(reward[run : run + 1], weight[run : run + 1])
        assert (one.value[0], one.low[0], one.ess[0]) == (many.value[run], many.low[run], many.ess[run])
