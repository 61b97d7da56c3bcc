"""The base of bandits whose state is the number of rewards of each arm, their sum, and the sum of their squares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from router.policies.learning import JoinedRewards, check_floor, floored
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import ONE, Floats, Ints, fixed, tallied

_FACTOR_UNIT = 1 << 30  # a decay factor is a multiple of 1/2**30, so that the state does not depend on a machine's pow


@dataclass(frozen=True, slots=True)
class Sums:
    """Per run and arm (runs, arms), in units of 1/ONE: rewards counted, their sum, the sum of their squares."""

    pulls: Ints
    rewards: Ints
    squares: Ints


def forget(sums: Sums, run: Ints, arm: Ints) -> Sums:
    """Return `sums` with 0 for some arms of some runs: these arms were replaced."""
    kept = np.ones_like(sums.pulls)
    kept[run, arm] = 0
    return Sums(sums.pulls * kept, sums.rewards * kept, sums.squares * kept)


def decayed(sums: Ints, half_life: float | None, ticks: int) -> Ints:
    """Return `sums` after `ticks`; `half_life` ticks halve them. The result is the same as tick by tick."""
    if half_life is None:
        return sums
    factor = round(2.0 ** (-1.0 / half_life) * _FACTOR_UNIT) / _FACTOR_UNIT
    for _ in range(ticks):
        sums = np.rint(sums * factor).astype(np.int64)
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting(ABC):
    """A bandit over `Sums`. Subclasses define only the probabilities, in `shares`.

    `floor` is the least probability of an arm. `half_life` in ticks: rewards older than it count half.
    Rewards outside `lowest` to `highest` count as the nearer of the two.
    """

    arms: int
    floor: float = 0.0
    half_life: float | None = None
    sticky: bool = False

    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_floor(self.floor, self.arms)
        if self.half_life is not None and not self.half_life > 0:
            raise ValueError(f"half_life {self.half_life!r}: a number of ticks above 0 is expected")

    @property
    @abstractmethod
    def name(self) -> str:
        """The policy's name in prediction rows."""

    @abstractmethod
    def shares(self, state: Sums) -> Floats:
        """Return the probabilities (runs, arms) before the floor."""

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, tuple(float(weight) for weight in self.weights(self.start(1))[0]))

    def start(self, runs: int) -> Sums:
        return Sums(*(np.zeros((runs, self.arms), np.int64) for _ in range(3)))

    def fold(self, state: Sums, seen: JoinedRewards) -> Sums:
        shape = state.pulls.shape
        cells = seen.run * self.arms + seen.arm
        reward = np.minimum(np.maximum(seen.reward, self.lowest), self.highest)
        return Sums(
            state.pulls + ONE * tallied(cells, None, shape),
            state.rewards + tallied(cells, fixed(reward), shape),
            state.squares + tallied(cells, fixed(reward * reward), shape),
        )

    def tick(self, state: Sums, ticks: int = 1) -> Sums:
        if self.half_life is None:
            return state
        sums = (decayed(part, self.half_life, ticks) for part in (state.pulls, state.rewards, state.squares))
        return Sums(*sums)

    def weights(self, state: Sums) -> Floats:
        return floored(self.shares(state), self.floor)


def means(state: Sums, unseen: float) -> Floats:
    """Return the mean reward of each arm (runs, arms), `unseen` for one without any."""
    known = state.pulls > 0
    average: Floats = np.where(known, state.rewards / np.where(known, state.pulls, 1), unseen)
    return average
