"""`ucb`: the arm with the highest upper confidence bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from router.kinds.bandit import CountingConfig, FloorNeeded

if TYPE_CHECKING:  # scipy is imported where it is needed
    from router.policies.ucb import Ucb


class UcbConfig(CountingConfig):
    """The arm with the highest upper confidence bound. Only the floor gives the other arms a probability."""

    bandit: Literal["ucb"]
    kind: Literal["kl", "ucb1"] = "kl"
    floor: FloorNeeded

    def learning(self, arms: int) -> Ucb:
        from router.policies.ucb import Ucb

        return Ucb(arms=arms, floor=self.floor, half_life=self.discount, kind=self.kind)
