"""`lints`: each arm is drawn as often as it is probably the best for this request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from broker.support.strict import number
from router.kinds.bandit import LinearConfig

if TYPE_CHECKING:  # scipy is imported where it is needed
    from router.policies.linear import LinThompson


class LinThompsonConfig(LinearConfig):
    """An arm is drawn as often as it is probably the best for this request; `scale` is the error of predictions."""

    bandit: Literal["lints"]
    scale: Annotated[float, Field(gt=0.0, le=100.0), BeforeValidator(number)] = 0.3

    def learning(self, arms: int) -> LinThompson:
        from router.policies.linear import LinThompson

        return LinThompson(arms=arms, dimensions=self.dimensions, ridge=self.ridge, floor=self.floor, scale=self.scale)
