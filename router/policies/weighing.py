"""The weights that a linear policy gives the arms for one request: what `linear.py` says of arrays, in microseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from router.policies.base import floored
from router.policies.linear import LEAST_DEVIATION, Linear, LinThompson, LinUcb, Models
from router.snapshot import Snapshot
from router.stats.arrays import Floats
from router.stats.best_arm import FEW, best_of_few_normals, best_of_normals

Weigher = Callable[[Sequence[float]], Snapshot]
"""Returns what a request is drawn from, by the vector of its features: a snapshot of its own, with the same number."""

Predictor = Callable[[Sequence[float]], tuple[list[float], list[float]]]

_LEAST = LEAST_DEVIATION**2
_LARGEST = 1e100  # of a coefficient: what it weighs has a square then
_TIE = 1e-12  # scores that differ by less are equal: the arms that nothing is known of, however their sums are rounded


def weigher(learning: Linear, models: Models, widened: Callable[[Sequence[float]], Snapshot]) -> Weigher:
    """Return what weighs requests by the first run of `models`; `widened` makes a snapshot of the policy's own arms."""
    if isinstance(learning, LinUcb):
        return _by_bound(learning, _predictor(models, learning.alpha), widened)
    if isinstance(learning, LinThompson):
        return _by_chance(learning, _predictor(models, learning.scale), widened)
    raise TypeError(f"nobody weighs for {type(learning).__name__}")


def _predictor(models: Models, scale: float) -> Predictor:
    """Return what gives each arm's expected reward, and its variance scale^2 x' A^-1 x.

    Two products for all arms: of everything with x, then of what came of the roots with itself. They are written where
    the last request's were: a weigher is no thread's but its owner's.
    """
    root = models.root[0]
    arms, dimensions, _ = root.shape
    coefficients = np.einsum("kij,kj->ki", root, np.einsum("kji,kj->ki", root, models.rewarded[0]))
    turning = root.transpose(0, 2, 1).reshape(arms * dimensions, dimensions) * scale
    everything, products = np.concatenate([turning, coefficients]), np.empty(arms * dimensions + arms)
    if not np.abs(everything).max() <= _LARGEST:
        raise ValueError(f"models with coefficients beyond {_LARGEST:g}")
    turned, means = products[: arms * dimensions].reshape(arms, dimensions), products[arms * dimensions :]
    across, squares = turned.T, np.empty((arms, arms))
    variances = squares.diagonal()

    def predict(vector: Sequence[float]) -> tuple[list[float], list[float]]:
        everything.dot(np.array(vector), products)
        turned.dot(across, squares)
        return means.tolist(), variances.tolist()

    return predict


def _by_bound(learning: LinUcb, predict: Predictor, widened: Callable[[Sequence[float]], Snapshot]) -> Weigher:
    """Keep a snapshot for each set of arms that are best together: there are as few as arms, but for ties."""
    kept = dict[tuple[bool, ...], Snapshot]()

    def weigh(vector: Sequence[float]) -> Snapshot:
        scores = [mean + sqrt(of) for mean, of in zip(*predict(vector), strict=True)]
        highest = max(scores)
        least = highest - _TIE * abs(highest)
        best = tuple([score >= least for score in scores])
        snapshot = kept.get(best)
        if snapshot is None:
            snapshot = kept[best] = widened(_floored(np.array([best]) / sum(best), learning.floor))
        return snapshot

    return weigh


def _by_chance(learning: LinThompson, predict: Predictor, widened: Callable[[Sequence[float]], Snapshot]) -> Weigher:
    """Weigh few arms by their exact chance to be the best; of more it is an integral, and takes ten times as long."""
    floor, rest = learning.floor, 1.0 - learning.arms * learning.floor

    def weigh_few(vector: Sequence[float]) -> Snapshot:
        mean, variance = predict(vector)
        shares = best_of_few_normals(mean, [sqrt(of) if of > _LEAST else LEAST_DEVIATION for of in variance])
        return widened([floor + rest * share for share in shares])

    def weigh(vector: Sequence[float]) -> Snapshot:
        mean, variance = predict(vector)
        deviation = np.sqrt(np.maximum([variance], _LEAST))
        return widened(_floored(best_of_normals(np.array([mean]), deviation), floor))

    return weigh_few if learning.arms <= FEW else weigh


def _floored(shares: Floats, floor: float) -> list[float]:
    weights: list[float] = floored(shares, floor)[0].tolist()
    return weights
