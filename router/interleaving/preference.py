"""Which ranker is preferred: each unit (a key, or a request without one) votes once, with the mean of its credits.

The vote is not the ranker with more clicks: credit is unbiased on average, the sign of its sum is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.stats.arrays import ONE, Floats, Ints, fixed, log_mean_exp, tallied

BETS = np.geomspace(0.002, 0.5, 16)  # above 0.55 the limits below need not be unique
COSTS = -np.log1p(-BETS) - BETS
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Ballot:
    """A unit's clicks: the sum of each ranker's credit in units of 1/ONE, and the number of clicks.

    It does not depend on the order of clicks. A unit without a click has no preference.
    """

    credits: tuple[int, ...]
    clicks: int = 0

    def with_clicks(self, credit: Sequence[float], clicks: int = 1) -> Ballot:
        """Return the ballot after clicks that earned `credit`, one number a ranker."""
        sums = (old + round(new * ONE) for old, new in zip(self.credits, credit, strict=True))
        return Ballot(tuple(sums), self.clicks + clicks)

    def vote(self) -> tuple[float, ...]:
        """Return the mean credit of each ranker, in [0, 1]; all 0 without a click."""
        return tuple(total / ONE / max(self.clicks, 1) for total in self.credits)


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes counted, per run (runs,); differences of credit, and their squares, per pair (runs, pairs), in 1/ONE."""

    units: Ints
    differences: Ints
    squares: Ints


@dataclass(frozen=True, slots=True)
class Preference:
    """Tests that two rankers earn the same, for every pair of `rankers`, and limits of their difference.

    Both are valid after every vote. With d in [-1, 1] and x = (d - m) / 2, the wealth exp(b sum x - (-ln(1 - b)
    - b) sum x**2) grows by at most 1 on average at each vote if the mean of d is at most m (Fan, Grama and Liu 2015,
    inequality 4.11; Howard et al. 2021 on its use); so does the mean over bets b in (0, 0.5]. The state is three sums,
    which do not depend on the order. The limits are the values m that a wealth of 2 / alpha does not reject from either
    side; several pairs share alpha equally.
    """

    rankers: int

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs in the order of every result: (0, 1), (0, 2), ... A difference is the first's less the second's."""
        return tuple((first, second) for first in range(self.rankers) for second in range(first + 1, self.rankers))

    def start(self, runs: int) -> Votes:
        """Return the state before the first vote."""
        shape = (runs, len(self.pairs))
        return Votes(np.zeros(runs, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def fold(self, state: Votes, run: Ints, vote: Floats) -> Votes:
        """Return the state after votes (votes, rankers), each with its run; in any order the same bytes.

        Squares are rounded up, so that the wealth is never larger than with exact ones.
        """
        shape = state.differences.shape
        units = fixed(np.minimum(np.maximum(vote, 0.0), 1.0))
        first, second = np.array(self.pairs).T
        difference = units[:, first] - units[:, second]
        cells = (run[:, None] * shape[1] + np.arange(shape[1])).ravel()
        return Votes(
            state.units + tallied(run, None, state.units.shape),
            state.differences + tallied(cells, difference.ravel(), shape),
            state.squares + tallied(cells, np.ceil(difference * difference / ONE).ravel(), shape),
        )

    def log_wealth(self, state: Votes) -> Floats:
        """Return the log wealth (runs, pairs) against "they earn the same": preferred at ln(pairs / alpha)."""
        none = np.zeros(state.differences.shape)
        return np.maximum(_log_wealth(state, none, 1.0), _log_wealth(state, none, -1.0)) - math.log(2.0)

    def preferred(self, state: Votes, alpha: float) -> Ints:
        """Return for each pair (runs, pairs) 1 if the first ranker is proven better, -1 if the second is, else 0."""
        proven = self.log_wealth(state) >= math.log(len(self.pairs) / alpha)
        return np.where(proven, np.sign(state.differences), 0)

    def means(self, state: Votes) -> Floats:
        """Return the mean difference of credit (runs, pairs); 0 before the first vote."""
        mean: Floats = state.differences / ONE / np.maximum(state.units, 1)[:, None]
        return mean

    def limits(self, state: Votes, alpha: float) -> tuple[Floats, Floats]:
        """Return the lower and upper limit of the mean difference (runs, pairs).

        With probability 1 - alpha the mean differences of all pairs are within their limits at all times.
        """
        enough = math.log(2.0 * len(self.pairs) / alpha)
        return self._limit(state, enough, 1.0), self._limit(state, enough, -1.0)

    def _limit(self, state: Votes, enough: float, side: float) -> Floats:
        """Return the last value, from the far end to the mean, that the wealth of one side rejects (by bisection)."""
        inside = self.means(state)
        outside = np.full(inside.shape, -side)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2.0
            rejected = _log_wealth(state, middle, side) >= enough
            outside, inside = np.where(rejected, middle, outside), np.where(rejected, inside, middle)
        return outside


def _log_wealth(state: Votes, mean: Floats, side: float) -> Floats:
    """Return the log wealth (runs, pairs) of bets that the mean difference is above `mean`, or below for side -1."""
    number = state.units[:, None].astype(np.float64)
    differences, squares = state.differences / ONE, state.squares / ONE
    total = side * (differences - number * mean) / 2.0
    spread = (squares - 2.0 * mean * differences + number * mean * mean) / 4.0
    return log_mean_exp(total[..., None] * BETS - spread[..., None] * COSTS)
