"""`exp3`: exponential weights over estimated losses, with a regret bound for any sequence of rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router.policies.counts import decayed
from router.policies.learning import JoinedRewards, check_floor, floored
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import ONE, Floats, Ints, fixed, tallied

_LEAST_PROPENSITY = 1e-6


@dataclass(frozen=True, slots=True)
class Losses:
    """Per run and arm (runs, arms), in units of 1/ONE: rewards counted, and the sum of (1 - reward) / propensity."""

    pulls: Ints
    losses: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Exp3:
    """Exp3 for rewards in [0, 1] (Bubeck and Cesa-Bianchi 2012, figure 3.1).

    A loss counts 1 / propensity, with the logged propensity: the present one would be wrong for late rewards. Without
    `rate` it is sqrt(ln K / (K t)) after t rewards, for a regret of at most 2 sqrt(T K ln K).
    """

    arms: int
    floor: float = 0.0
    half_life: float | None = None
    rate: float | None = None
    sticky: bool = False

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(f"half_life {self.half_life!r}: a number of ticks above 0 is expected")

    @property
    def name(self) -> str:
        return "exp3"

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, tuple(float(weight) for weight in self.weights(self.start(1))[0]))

    def start(self, runs: int) -> Losses:
        return Losses(np.zeros((runs, self.arms), np.int64), np.zeros((runs, self.arms), np.int64))

    def fold(self, state: Losses, seen: JoinedRewards) -> Losses:
        shape = state.pulls.shape
        cells = seen.run * self.arms + seen.arm
        loss = (1.0 - np.minimum(np.maximum(seen.reward, 0.0), 1.0)) / np.maximum(seen.propensity, _LEAST_PROPENSITY)
        pulls = state.pulls + ONE * tallied(cells, None, shape)
        return Losses(pulls, state.losses + tallied(cells, fixed(loss), shape))

    def tick(self, state: Losses, ticks: int = 1) -> Losses:
        return Losses(decayed(state.pulls, self.half_life, ticks), decayed(state.losses, self.half_life, ticks))

    def weights(self, state: Losses) -> Floats:
        behind = (state.losses - state.losses.min(axis=-1, keepdims=True)) / ONE
        if self.rate is None:
            counted = np.maximum(state.pulls.sum(axis=-1, keepdims=True) / ONE, 1.0)
            rate = np.sqrt(math.log(self.arms) / (self.arms * counted))
        else:
            rate = np.full((len(behind), 1), self.rate)
        shares = np.exp(-rate * behind)
        return floored(shares / shares.sum(axis=-1, keepdims=True), self.floor)
