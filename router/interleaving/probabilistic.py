"""Lists drawn from softened rankings: any item may be placed, items with better ranks more probably."""

from __future__ import annotations

import numpy as np

from router.interleaving.placed import CheckedRankings, Credit, Draw
from router.stats.arrays import Floats

TAU = 3.0


def probabilistic(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: how probable it is that each ranker placed the item, given the list.

    At each position one ranker, drawn uniformly, places an item with a probability in proportion to rank**-3, among
    those not in the list yet (Hofmann, Whiteson and de Rijke 2011; Schuth et al. 2015 for more than two). Given the
    list, the rankers of two positions are independent, and so P_j(item | before) / sum_i P_i(item | before) is exact,
    without a sum over all assignments of rankers to positions.
    """
    softmax = [np.arange(1.0, len(ranking) + 1.0) ** -TAU for ranking in rankings.lists]
    placed: dict[str, Credit] = {}
    while len(placed) < length:
        left = [float(weights.sum()) for weights in softmax]
        able = [ranker for ranker, mass in enumerate(left) if mass > 0.0]
        if not able:
            break
        ranker = able[int(draw() * len(able))]
        item = rankings.lists[ranker][_drawn(softmax[ranker], draw())]
        placed[item] = _taken(softmax, left, rankings.of(item), credited=len(placed) < rankings.shortest)
    return placed


def _drawn(weights: Floats, number: float) -> int:
    """Return the place in `weights` whose slice holds `number`; never one of weight 0.

    A number of at most 1 - 2**-53 times a sum is below that sum, in floats too, so there always is such a place.
    """
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, number * sums[-1], side="right"))


def _taken(softmax: list[Floats], left: list[float], ranks: tuple[int, ...], *, credited: bool) -> Credit:
    """Take an item out of every ranker's weights; return the shares of their probabilities of it."""
    shares = [
        float(weights[rank - 1]) / mass if rank else 0.0
        for weights, mass, rank in zip(softmax, left, ranks, strict=True)
    ]
    for weights, rank in zip(softmax, ranks, strict=True):
        if rank:
            weights[rank - 1] = 0.0
    total = sum(shares)
    return tuple(share / total if credited else 0.0 for share in shares)
