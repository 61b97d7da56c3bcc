"""Lists drawn so that random clicks prefer no ranker on average, and each single list is as sensitive as possible.

Radlinski and Craswell (2013): the probabilities of all lists made of the two rankings' top items solve a linear
program.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np

from router.interleaving.drafts import drafted
from router.interleaving.placed import CheckedRankings, Credit, Draw
from router.stats.arrays import Floats

DEPTH_LIMIT = 10  # at most 2**10 lists
_LEAST = 1e-12

Order = tuple[int, ...]
Ranks = tuple[tuple[int, int], ...]


def optimized(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: (n + 1 - rank) / n among a ranking's best n, so that differences are of ranks.

    n is the length, that of the shorter ranking or 10, whichever is least; items below position n are placed by a team
    draft and earn nothing. The first list of ten positions of two new rankings costs about 15 ms; the solution is kept.
    Of several best solutions the solver picks one: a draw gives the same list as long as its version is the same.
    """
    depth = min(length, rankings.shortest, DEPTH_LIMIT)
    first, second = (ranking[:depth] for ranking in rankings.lists)
    items = list(dict.fromkeys([*first, *second]))
    ranks = tuple(_within(rankings.of(item), depth) for item in items)
    orders, sums = solution(ranks, depth)
    if not orders:
        return drafted(rankings, {}, length, draw, credited=depth)
    order = orders[bisect_right(sums, draw())]
    placed: dict[str, Credit] = {items[item]: _credit(ranks[item], depth) for item in order}
    return drafted(rankings, placed, length, draw, credited=0)


def _within(ranks: tuple[int, ...], depth: int) -> tuple[int, int]:
    """Return two ranks, `depth` + 1 for those that are worse and for items that are absent."""
    first, second = (min(rank or depth + 1, depth + 1) for rank in ranks)
    return first, second


def _credit(ranks: tuple[int, int], depth: int) -> Credit:
    return tuple((depth + 1 - rank) / depth for rank in ranks)


@lru_cache(maxsize=512)
def solution(ranks: Ranks, depth: int) -> tuple[tuple[Order, ...], tuple[float, ...]]:
    """Return lists, as numbers of items, and the running sums of their probabilities but for the last.

    `ranks` are each item's in both rankings, cut to `depth`. At every position the expected difference of the credits
    is 0, so that random clicks prefer no ranker. The result is empty if there is no such solution (none is known for
    rankings of different items).
    """
    from scipy.optimize import linprog  # a fifth of a second, for the one method that needs it

    orders = mixtures(ranks, depth)
    difference = np.array([[ranks[item][1] - ranks[item][0] for item in order] for order in orders], np.float64) / depth
    equal = np.vstack([np.ones(len(orders)), difference.T])
    target = np.concatenate([[1.0], np.zeros(depth)])
    found = linprog(-sensitivity(difference), A_eq=equal, b_eq=target, method="highs")
    if found.status != 0:
        return (), ()
    kept = np.flatnonzero(found.x > _LEAST)
    chances = _exact(equal[:, kept], target, found.x[kept])
    return tuple(orders[place] for place in kept), tuple(np.cumsum(chances)[:-1].tolist())


def mixtures(ranks: Ranks, depth: int) -> list[Order]:
    """Return all lists in which every next item is the best remaining one of a ranking (at most 2**depth)."""
    tops = [sorted(range(len(ranks)), key=lambda item: ranks[item][ranker]) for ranker in (0, 1)]
    grown: list[Order] = [()]
    for _ in range(depth):
        grown = [(*order, item) for order in grown for item in _next(tops, order)]
    return grown


def _next(tops: list[list[int]], order: Order) -> set[int]:
    return {next(item for item in top if item not in order) for top in tops}


def sensitivity(difference: Floats) -> Floats:
    """Return the sensitivity of each list (lists,), from differences of credit (lists, positions).

    A user clicks position i with a probability proportional to 1 / i. The sensitivity is the entropy of the preferred
    ranker times the probability of a preference: low for a list that always prefers the same ranker, or none.
    """
    clicks = 1.0 / np.arange(1.0, difference.shape[1] + 1.0)
    clicks /= clicks.sum()
    first, second = (difference > 0.0) @ clicks, (difference < 0.0) @ clicks
    either = np.maximum(first + second, _LEAST)
    value: Floats = -either * sum(part / either * np.log(np.maximum(part / either, _LEAST)) for part in (first, second))
    return value


def _exact(equal: Floats, target: Floats, rough: Floats) -> Floats:
    """Return the solver's probabilities, accurate to 1e-7, corrected by least squares to rounding errors."""
    better: Floats = rough + np.linalg.lstsq(equal, target - equal @ rough, rcond=None)[0]
    chances: Floats = np.maximum(better, 0.0)
    chances /= chances.sum()
    return chances
