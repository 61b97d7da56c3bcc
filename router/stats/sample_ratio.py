"""Sample ratio mismatch: do the arms get the right shares of requests, and of joined rewards?

Both tests are valid after every request. The alarm is at a wealth of 1000, one false alarm in a thousand experiments. A
mismatch among joined rewards means that feedback is missing for some arms more than for others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from router.stats.arrays import Floats, Ints, log_mean_exp

ALARM = 1000.0
_LOG_UNIT = float(1 << 32)
_RATIOS = (0.5, 0.67, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)


def log_wealth(counts: Ints, shares: Floats, strength: float = 100.0) -> Floats:
    """Return the log wealth (runs,) against counts (runs, arms) having fixed `shares` (arms,).

    A Dirichlet mixture of multinomials over the null, ln E = ln B(k s + n) - ln B(k s) - sum n ln s (Lindon and Malek
    2022, "Anytime-valid inference for multinomial count data"). `strength` k: the higher, the smaller the mismatches
    that it detects. Arms without a share are left out; a count of such an arm gives infinite wealth.
    """
    kept = shares > 0
    prior, number = strength * shares[kept] / shares[kept].sum(), counts[:, kept].astype(np.float64)
    gained = _log_beta(prior + number) - _log_beta(prior[None]) - (number * np.log(prior / strength)).sum(axis=-1)
    return np.where(counts[:, ~kept].any(axis=-1), np.inf, gained)


def _log_beta(parameters: Floats) -> Floats:
    """Return the logarithm of the multivariate beta function over the last axis."""
    value: Floats = gammaln(parameters).sum(axis=-1) - gammaln(parameters.sum(axis=-1))
    return value


@dataclass(frozen=True, slots=True)
class RatioTest:
    """The test for changing shares: a bandit's decisions, each with its own probabilities.

    It bets for each arm that the arm is drawn r times as often as with its probability p, for each r of `ratios`; the
    factor is r / (1 + p (r - 1)) if it was drawn, else 1 / (1 + p (r - 1)). A state is (runs, arms, ratios) logarithms
    in units of 2**-32, rounded down: in any order the same bytes.
    """

    arms: int
    ratios: tuple[float, ...] = _RATIOS

    def start(self, runs: int) -> Ints:
        """Return the state before the first request."""
        return np.zeros((runs, self.arms, len(self.ratios)), np.int64)

    def fold(self, state: Ints, run: Ints, arm: Ints, probabilities: Floats) -> Ints:
        """Return the state after requests: flat `run` and `arm`, and `probabilities` (requests, arms) at the draw."""
        ratio = np.asarray(self.ratios)
        drawn = (arm[:, None] == np.arange(self.arms))[:, :, None]
        gained = np.where(drawn, np.log(ratio), 0.0) - np.log1p(probabilities[:, :, None] * (ratio - 1.0))
        after = state.copy()
        np.add.at(after, run, np.floor(gained * _LOG_UNIT).astype(np.int64))
        return after

    def log_wealth(self, state: Ints) -> Floats:
        """Return the log wealth (runs,): the mean over arms and ratios."""
        return log_mean_exp(state.reshape(len(state), -1) / _LOG_UNIT)
