"""`linucb`: the arm with the highest upper confidence bound for this request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from broker.support.strict import number
from router.kinds.bandit import FloorNeeded, LinearConfig

if TYPE_CHECKING:  # scipy is imported where it is needed
    from router.policies.linear import LinUcb


class LinUcbConfig(LinearConfig):
    """The arm with the highest bound for this request: the prediction plus `alpha` times its deviation."""

    bandit: Literal["linucb"]
    alpha: Annotated[float, Field(ge=0.0, le=100.0), BeforeValidator(number)] = 0.5
    floor: FloorNeeded

    def learning(self, arms: int) -> LinUcb:
        from router.policies.linear import LinUcb

        return LinUcb(arms=arms, dimensions=self.dimensions, ridge=self.ridge, floor=self.floor, alpha=self.alpha)
