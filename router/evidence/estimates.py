"""Estimates of the rewards of arms and other policies, from logged decisions.

Every reward counts 1 / propensity. A plain mean would mix times with different weights: an arm that is drawn more often
in good hours would look better than it is (Simpson's paradox).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router.evidence.decisions import Decisions
from router.stats.arrays import Bools, Floats, Ints
from router.stats.estimators import LEAST_ESS, MEAN_WEIGHT, Estimate, doubly_robust, ips, snips
from router.stats.sample_ratio import RatioTest

LOG_ALARM = math.log(1000.0)
AT_ONCE = 65_536  # decisions: the test needs arms x ratios numbers for each
SUPPORTED = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """One estimate with its 95 % interval; `refused` is the reason if there is none."""

    how: str
    value: float | None
    low: float | None
    high: float | None
    used: int
    ess: float
    mean_weight: float
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A test of the arms' shares: observed and expected draws, and the log wealth against their agreement."""

    observed: Ints
    expected: Floats
    tested: int
    left_out: int
    log_e: float

    @property
    def alarm(self) -> bool:
        """Whether the decisions were not drawn from the logged probabilities."""
        return self.log_e >= LOG_ALARM


def values(decisions: Decisions, reward: Floats, target: Floats) -> list[PolicyValue]:
    """Return three estimates of the mean reward of a policy with the probabilities `target` (decisions, arms).

    Decisions with an unknown reward or target are left out. The doubly robust estimator predicts with the mean reward
    of each arm before the decision.
    """
    kept = ~np.isnan(reward) & ~np.isnan(target[:, 0])
    arm, earned, share = decisions.arm[kept], reward[kept], target[kept]
    if len(arm) < 2:
        return [_nothing(how, len(arm)) for how in ("IPS", "SNIPS", "DR")]
    weight = share[np.arange(len(arm)), arm] / decisions.propensity[kept]
    predicted = running_means(arm, earned, share.shape[1])
    mine = predicted[np.arange(len(arm)), arm]
    expected = (predicted * share).sum(axis=-1)
    one, two = earned[None], weight[None]
    found = {
        "IPS": ips(one, two),
        "SNIPS": snips(one, two),
        "DR": doubly_robust(one, two, mine[None], expected[None]),
    }
    return [_value(how, estimate, len(arm)) for how, estimate in found.items()]


def always(decisions: Decisions, arm: int) -> Floats:
    """Return the probabilities of the policy "always this arm"; NaN for decisions in which it could not be drawn.

    It was not ready, or a canary was over; such decisions cannot be used.
    """
    target = np.zeros_like(decisions.weights)
    target[:, arm] = 1.0
    target[decisions.weights[:, arm] <= SUPPORTED] = np.nan
    return target


def log_mean(reward: Floats) -> tuple[float | None, int]:
    """Return the plain mean of the rewards in the log, and their number."""
    known = reward[~np.isnan(reward)]
    return (float(known.mean()) if len(known) else None), len(known)


def running_means(arm: Ints, reward: Floats, arms: int) -> Floats:
    """Return the mean reward of every arm before each decision (decisions, arms); 0 before its first reward."""
    drawn = arm[:, None] == np.arange(arms)
    pulls = np.cumsum(drawn, axis=0) - drawn
    earned = np.where(drawn, reward[:, None], 0.0)
    sums = np.cumsum(earned, axis=0) - earned
    before: Floats = np.where(pulls > 0, sums / np.maximum(pulls, 1), 0.0)
    return before


def sample_ratio(decisions: Decisions, kept: Bools | None = None, *, sticky: bool = False) -> Ratio:
    """Test whether the shares of arms match the probabilities of the decisions, among those that are `kept`.

    If `sticky` only the first decision of a key counts. Decisions of unknown probabilities are left out.
    """
    chosen = decisions if kept is None else decisions.only(kept)
    if sticky:
        chosen = chosen.only(chosen.first_of_keys())
    known = chosen.only(chosen.is_known)
    arms = decisions.weights.shape[1]
    test = RatioTest(arms)
    state = test.start(1)
    for begin in range(0, len(known), AT_ONCE):
        arm, weights = known.arm[begin : begin + AT_ONCE], known.weights[begin : begin + AT_ONCE]
        state = test.fold(state, np.zeros_like(arm), arm, weights)
    return Ratio(
        observed=np.bincount(known.arm, minlength=arms),
        expected=known.weights.sum(axis=0),
        tested=len(known),
        left_out=len(chosen) - len(known),
        log_e=float(test.log_wealth(state)[0]),
    )


def _value(how: str, found: Estimate, used: int) -> PolicyValue:
    ess, mean_weight = float(found.ess[0]), float(found.mean_weight[0])
    if found.refused[0]:
        why = _why(ess, mean_weight)
        return PolicyValue(
            how=how, value=None, low=None, high=None, used=used, ess=ess, mean_weight=mean_weight, refused=why
        )
    value, low, high = (float(column[0]) for column in (found.value, found.low, found.high))
    return PolicyValue(how=how, value=value, low=low, high=high, used=used, ess=ess, mean_weight=mean_weight)


def _why(ess: float, mean_weight: float) -> str:
    if ess < LEAST_ESS:
        return f"the decisions weigh as much as {ess:.0f}, and {LEAST_ESS:.0f} are needed"
    low, high = MEAN_WEIGHT
    return f"the mean weight is {mean_weight:.3g}, and right propensities give {low:g} to {high:g}"


def _nothing(how: str, used: int) -> PolicyValue:
    why = f"{used} decisions can be used, and {LEAST_ESS:.0f} are needed"
    return PolicyValue(how=how, value=None, low=None, high=None, used=used, ess=0.0, mean_weight=0.0, refused=why)
