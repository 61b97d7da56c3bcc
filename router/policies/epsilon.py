"""`epsilon_greedy`: the arm with the best mean, and any arm with probability epsilon."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.policies.counts import Counting, Sums, means
from router.policies.learning import floored
from router.stats.arrays import Floats, argmax_shares


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonGreedy(Counting):
    """Epsilon-greedy. An arm without rewards counts as the best; arms with equal means share."""

    epsilon: float = 0.05

    def __post_init__(self) -> None:
        Counting.__post_init__(self)
        if not 0.0 <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon {self.epsilon!r}: a share from 0 to 1 is expected")

    @property
    def name(self) -> str:
        return "epsilon_greedy"

    def shares(self, state: Sums) -> Floats:
        return floored(argmax_shares(means(state, unseen=math.inf)), self.epsilon / self.arms)
