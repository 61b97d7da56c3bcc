"""`epsilon_greedy`: the arm with the best mean, and any arm with probability epsilon."""

from __future__ import annotations

from typing import Literal

from broker.support.strict import Fraction
from router.kinds.bandit import CountingConfig
from router.policies.epsilon import EpsilonGreedy


class EpsilonGreedyConfig(CountingConfig):
    """The arm with the best mean, and any arm with probability `epsilon`."""

    bandit: Literal["epsilon_greedy"]
    epsilon: Fraction = 0.05

    def learning(self, arms: int) -> EpsilonGreedy:
        return EpsilonGreedy(arms=arms, floor=self.floor, half_life=self.discount, epsilon=self.epsilon)
