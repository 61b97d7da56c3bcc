"""`linucb` and `lints`: a linear model of the reward for each arm, from the request's features (disjoint models).

The fold keeps the order of events: its sums are floats, which another order changes by up to 1e-9.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from router.policies.learning import JoinedRewards, check_floor, floored
from router.policies.linear_models import LEAST_DEVIATION, LinearModels
from router.policies.snapshot import WeightSnapshot
from router.policies.weigher import Weigher
from router.policies.weighing import BoundWeigher, ChanceWeigher, FewArmsChanceWeigher
from router.stats.arrays import Floats, argmax_shares, rounds
from router.stats.best_arm import FEW, best_of_normals


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(ABC):
    """The base of both bandits. `ridge` is the weight of the prior; features are vectors of `dimensions`."""

    arms: int
    dimensions: int
    ridge: float = 1.0
    floor: float = 0.005
    sticky: bool = False

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)

    @property
    @abstractmethod
    def name(self) -> str:
        """The policy's name in prediction rows."""

    @abstractmethod
    def shares(self, mean: Floats, deviation: Floats) -> Floats:
        """Return the probabilities before the floor, from predictions and their deviations, all (runs, arms)."""

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, (1.0 / self.arms,) * self.arms)

    def start(self, runs: int) -> LinearModels:
        prior = np.eye(self.dimensions) / np.sqrt(self.ridge)
        shape = (runs, self.arms, self.dimensions)
        return LinearModels(np.broadcast_to(prior, (*shape, self.dimensions)).copy(), np.zeros(shape))

    def fold(self, state: LinearModels, seen: JoinedRewards, features: Floats) -> LinearModels:
        # The root follows by Potter's formula (Bierman 1977, Factorization methods, II.7). The inverse itself would
        # lose all digits with features of unequal size: with the root, predictions for features from 0 to 1e6 are
        # accurate to 1e-10 of their deviations, and to 1e-4 for collinear features.
        root, rewarded = state.root.copy(), state.rewarded.copy()
        for places in rounds(seen.run):
            cell = (seen.run[places], seen.arm[places])
            x = features[places]
            before = root[cell]
            turned = np.einsum("rji,rj->ri", before, x)
            kept = 1.0 / (1.0 + np.einsum("ri,ri->r", turned, turned))
            gain = np.einsum("rij,rj->ri", before, turned) * (kept / (1.0 + np.sqrt(kept)))[:, None]
            root[cell] = before - gain[:, :, None] * turned[:, None, :]
            rewarded[cell] += seen.reward[places, None] * x
        return LinearModels(root, rewarded)

    def weights(self, state: LinearModels, features: Floats) -> Floats:
        return floored(self.shares(*self.predicted(state, features)), self.floor)

    @abstractmethod
    def weigher(self, models: LinearModels) -> Weigher:
        """Return the weigher that routers use, with the first run of `models`."""

    def predicted(self, state: LinearModels, features: Floats) -> tuple[Floats, Floats]:
        """Return the expected rewards and sqrt(x' A^-1 x), both (runs, arms)."""
        turned = np.einsum("rkji,rj->rki", state.root, features)
        mean = np.einsum("rki,rki->rk", turned, np.einsum("rkji,rkj->rki", state.root, state.rewarded))
        return mean, np.sqrt(np.einsum("rki,rki->rk", turned, turned))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinUcb(Linear):
    """Disjoint LinUCB (Li et al. 2010, algorithm 1): the highest mean + alpha sqrt(x' A^-1 x)."""

    alpha: float = 0.5

    @property
    def name(self) -> str:
        return "linucb"

    def shares(self, mean: Floats, deviation: Floats) -> Floats:
        return argmax_shares(mean + self.alpha * deviation)

    def weigher(self, models: LinearModels) -> Weigher:
        return BoundWeigher(models, scale=self.alpha, floor=self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinThompson(Linear):
    """Linear Thompson sampling (Agrawal and Goyal 2013): normal predictions, their deviation scale sqrt(x' A^-1 x)."""

    scale: float = 0.3

    @property
    def name(self) -> str:
        return "lints"

    def shares(self, mean: Floats, deviation: Floats) -> Floats:
        return best_of_normals(mean, np.maximum(self.scale * deviation, LEAST_DEVIATION))

    def weigher(self, models: LinearModels) -> Weigher:
        weigher = FewArmsChanceWeigher if self.arms <= FEW else ChanceWeigher
        return weigher(models, scale=self.scale, floor=self.floor)
