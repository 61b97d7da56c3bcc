"""Tests that are valid after every event: the wealth of bets, at most 1 on average under the null hypothesis.

Reject when the wealth reaches 1/alpha: by Ville's inequality that happens with a probability of at most alpha under the
null hypothesis, for any number of looks (Shafer 2021; Ramdas et al. 2023, "Game-theoretic statistics and safe
anytime-valid inference"). Shares and bets must be known before the outcome: use the propensity of the decision, not the
present one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from router.stats.arrays import Bools, Floats, Ints, log_mean_exp, rounds

_LOG_UNIT = float(1 << 32)
_ALTERNATIVES = 24
_MOST_BET = 0.5
_FURTHEST = 8.0
_NEAREST = 1.1


@dataclass(frozen=True, slots=True)
class EventTest:
    """Bets that a bad event is the canary's more (or less) often than `null` times the rate of the others implies.

    Given that a request went wrong, it was the canary's with probability w r / (1 + w (r - 1)), if its share of the
    requests was w and it fails r times as often. A base rate that drifts cancels, and so do shares that change. The
    wealth is the mean over `alternatives` of the likelihood ratios of r against `null`. A state is (runs, alternatives)
    logarithms in units of 2**-32, rounded down: in any order the same bytes, and never more than the exact wealth.
    """

    null: float
    alternatives: tuple[float, ...]

    def start(self, runs: int) -> Ints:
        """Return the state before the first event."""
        return np.zeros((runs, len(self.alternatives)), np.int64)

    def fold(self, state: Ints, run: Ints, canary: Bools, share: Floats) -> Ints:
        """Return the state after bad events: flat arrays. `share` is the canary's probability at each draw.

        `canary` is True for the events of the canary.

        An event under a share of 0 or 1 changes nothing.
        """
        ratio = np.asarray(self.alternatives)
        w = share[:, None]
        kept = np.log1p(w * (self.null - 1.0)) - np.log1p(w * (ratio - 1.0))
        gained = np.where(canary[:, None], np.log(ratio / self.null) + kept, kept)
        units = np.floor(gained * _LOG_UNIT).astype(np.int64) * ((w > 0.0) & (w < 1.0))
        after = state.copy()
        np.add.at(after, run, units)
        return after

    def log_wealth(self, state: Ints) -> Floats:
        """Return the natural logarithm of the wealth (runs,): reject the hypothesis at log(1 / alpha)."""
        return log_mean_exp(state / _LOG_UNIT)


@lru_cache
def worse_than(ratio: float) -> EventTest:
    """Return the test against "the canary's bad events are at most `ratio` times the others'"."""
    grid = np.geomspace(_NEAREST * ratio, _FURTHEST * ratio, _ALTERNATIVES)
    return EventTest(ratio, tuple(float(alternative) for alternative in grid))


@lru_cache
def better_than(ratio: float) -> EventTest:
    """Return the test against "the canary's bad events are at least `ratio` times the others'" (non-inferiority)."""
    grid = np.geomspace(ratio / _FURTHEST, ratio / _NEAREST, _ALTERNATIVES)
    return EventTest(ratio, tuple(float(alternative) for alternative in grid))


def rarer_than(rate: float, bad: Ints, requests: Ints) -> Floats:
    """Return the log wealth (runs,) of bets that less than `rate` of `requests` are bad; `bad` of them were.

    The mean of likelihood ratios of lower rates against `rate`: valid for independent requests whose rate may change,
    but is never below `rate`. It depends on the two counts alone.
    """
    lower = np.geomspace(rate / _FURTHEST, rate / _NEAREST, _ALTERNATIVES)
    good = (requests - bad)[:, None] * np.log1p((rate - lower) / (1.0 - rate))
    return log_mean_exp(bad[:, None] * np.log(lower / rate) + good)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Per run: rewards that wait for a partner (sum and number, control's and canary's), pairs so far, log wealth."""

    control: Floats
    controls: Floats
    canary: Floats
    canaries: Floats
    pairs: Floats
    total: Floats
    squares: Floats
    log_wealth: Floats


@dataclass(frozen=True, slots=True)
class PairTest:
    """Bets on rewards in [0, 1]: that the canary's mean is lower (`drop` none), or less than `drop` lower.

    Rewards wait until the other side has some too; their means make a pair, with a difference d in [-1, 1]. The wealth
    grows by 1 + b d, or 1 + b (drop - d): the bet b in [0, 0.5] follows from earlier pairs alone (Waudby-Smith and
    Ramdas 2024, section B.3, "approximate GRAPA"). The order of events counts.
    """

    drop: float | None = None

    def start(self, runs: int) -> Pairs:
        """Return the state before the first reward."""
        return Pairs(*(np.zeros(runs) for _ in fields(Pairs)))

    def fold(self, state: Pairs, run: Ints, canary: Bools, reward: Floats) -> Pairs:
        """Return the state after rewards: flat arrays, in the order of the log."""
        reward = np.minimum(np.maximum(reward, 0.0), 1.0)
        for places in rounds(run):
            state = self._fold_one(state, run[places], canary[places], reward[places])
        return state

    def log_wealth(self, state: Pairs) -> Floats:
        """Return the natural logarithm of the wealth (runs,)."""
        return state.log_wealth

    def _fold_one(self, state: Pairs, run: Ints, canary: Bools, reward: Floats) -> Pairs:
        """Fold at most one reward a run."""
        new = {field.name: getattr(state, field.name).copy() for field in fields(Pairs)}
        new["control"][run] += np.where(canary, 0.0, reward)
        new["controls"][run] += ~canary
        new["canary"][run] += np.where(canary, reward, 0.0)
        new["canaries"][run] += canary
        paired = (new["controls"] > 0) & (new["canaries"] > 0)
        difference = new["control"] / np.maximum(new["controls"], 1.0) - new["canary"] / np.maximum(
            new["canaries"], 1.0
        )
        value = difference if self.drop is None else self.drop - difference
        new["log_wealth"] += np.where(paired, np.log1p(self._bet(state) * value), 0.0)
        new["pairs"] += paired
        new["total"] += np.where(paired, value, 0.0)
        new["squares"] += np.where(paired, value * value, 0.0)
        for name in ("control", "controls", "canary", "canaries"):
            new[name][paired] = 0.0
        return Pairs(**new)

    def _bet(self, state: Pairs) -> Floats:
        """Return mean / (variance + mean squared) of earlier pairs, within [0, 0.5]."""
        second = (0.25 + state.squares) / (1.0 + state.pairs)
        bet: Floats = np.minimum(np.maximum(state.total / (1.0 + state.pairs) / second, 0.0), _MOST_BET)
        return bet
