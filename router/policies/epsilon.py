"""`epsilon_greedy`: the arm with the best mean, and any arm with probability epsilon."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.arrays import Floats, argmax_shares
from router.policies.base import floored
from router.policies.counts import Counting, Sums, means


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonGreedy(Counting):
    """Epsilon-greedy. An arm without a reward is the best; arms with the same mean share."""

    epsilon: float = 0.05

    @property
    def name(self) -> str:
        """See the protocol."""
        return "epsilon_greedy"

    def shares(self, state: Sums) -> Floats:
        """See Counting."""
        return floored(argmax_shares(means(state, unseen=math.inf)), self.epsilon / self.arms)
