"""The weigher of linear bandits: the weights of `linear.py` for a single request, in microseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt
from operator import add
from struct import Struct

import numpy as np

from router.policies.assignment import cumulative, draw
from router.policies.learning import floored
from router.policies.linear_models import LEAST_DEVIATION, LinearModels
from router.policies.snapshot import masked
from router.policies.weigher import Weigher
from router.stats.arrays import Floats
from router.stats.best_arm import best_of_few_normals, best_of_normals

Predictor = Callable[[Sequence[float]], tuple[list[float], list[float]]]

_LEAST = LEAST_DEVIATION**2
_LARGEST = 1e60  # of a coefficient: weights contain its fourth power
_TIE = 1e-12  # scores that differ by less are equal, such as those of arms without rewards after rounding


class BoundWeigher(Weigher):
    """LinUCB. The weights depend only on the set of best arms, so they are cached by that set."""

    def __init__(self, models: LinearModels, *, scale: float, floor: float) -> None:
        self._predict = _predictor(models, scale)
        self._floor = floor

    def weights(self, vector: Sequence[float]) -> Sequence[float]:
        return _weights_of(self._best(vector), self._floor)

    def pick(self, vector: Sequence[float], mask: int, number: float) -> tuple[int, float]:
        probabilities, sums = _drawn_by(self._best(vector), self._floor, mask)
        arm = draw(sums, number)
        return arm, probabilities[arm]

    def _best(self, vector: Sequence[float]) -> tuple[bool, ...]:
        means, variances = self._predict(vector)
        scores = list(map(add, means, map(sqrt, variances)))
        highest = max(scores)
        least = highest - _TIE * abs(highest)
        return tuple([score >= least for score in scores])


class ChanceWeigher(Weigher):
    """LinTS: an arm's weight is its probability to be the best, an integral that takes 40 us."""

    def __init__(self, models: LinearModels, *, scale: float, floor: float) -> None:
        self._predict = _predictor(models, scale)
        self._floor = floor

    def weights(self, vector: Sequence[float]) -> list[float]:
        means, variances = self._predict(vector)
        deviations = np.sqrt(np.maximum([variances], _LEAST))
        return _floored(best_of_normals(np.array([means]), deviations), self._floor)


class FewArmsChanceWeigher(Weigher):
    """LinTS of two or three arms: the probabilities are exact, and are computed only up to the drawn arm.

    The arm with the highest mean, which most requests get, comes first.
    """

    def __init__(self, models: LinearModels, *, scale: float, floor: float) -> None:
        self._predict = _predictor(models, scale)
        arms = models.root.shape[1]
        self._floor, self._rest, self._all = floor, 1.0 - arms * floor, (1 << arms) - 1
        self._but_last = [[(first + step) % arms for step in range(arms - 1)] for first in range(arms)]

    def weights(self, vector: Sequence[float]) -> list[float]:
        normals = self._normals(vector)
        weights = [self._floor + self._rest * best_of_few_normals(arm, *normals) for arm in self._but_last[0]]
        return [*weights, max(1.0 - sum(weights), self._floor)]

    def pick(self, vector: Sequence[float], mask: int, number: float) -> tuple[int, float]:
        if mask != self._all:
            return super().pick(vector, mask, number)
        means, variances = self._normals(vector)
        leader, floor, passed = means.index(max(means)), self._floor, 0.0
        for arm in self._but_last[leader]:
            weight = floor + self._rest * best_of_few_normals(arm, means, variances)
            passed += weight
            if number < passed:
                return arm, weight
        return (leader - 1) % len(means), max(1.0 - passed, floor)

    def _normals(self, vector: Sequence[float]) -> tuple[list[float], list[float]]:
        means, variances = self._predict(vector)
        if min(variances) < _LEAST:
            variances = [max(one, _LEAST) for one in variances]
        return means, variances


def _predictor(models: LinearModels, scale: float) -> Predictor:
    """Return a function that gives each arm's expected reward and its variance scale^2 x' A^-1 x.

    It computes two products for all arms: of roots and coefficients with x, then of the roots' part with itself. All
    arrays, x too, are reused for every request: numpy would take twice as long to read a list.
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
    x, put = np.empty(dimensions), Struct(f"{dimensions}d").pack_into
    room = x.data

    def predict(vector: Sequence[float]) -> tuple[list[float], list[float]]:
        put(room, 0, *vector)
        everything.dot(x, products)
        turned.dot(across, squares)
        return means.tolist(), variances.tolist()

    return predict


@lru_cache(maxsize=1024)
def _weights_of(best: tuple[bool, ...], floor: float) -> Sequence[float]:
    return tuple(_floored(np.array([best]) / sum(best), floor))


@lru_cache(maxsize=1024)
def _drawn_by(best: tuple[bool, ...], floor: float, mask: int) -> tuple[Sequence[float], Sequence[float]]:
    probabilities = masked(_weights_of(best, floor), mask)
    return probabilities, cumulative(probabilities)


def _floored(shares: Floats, floor: float) -> list[float]:
    weights: list[float] = floored(shares, floor)[0].tolist()
    return weights
