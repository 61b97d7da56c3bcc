"""`thompson`: each arm is drawn as often as it is probably the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from broker.support.strict import number
from router.kinds.bandit import CountingConfig

if TYPE_CHECKING:  # scipy is imported where it is needed
    from router.policies.thompson import GaussianThompson, Thompson

_Count = Annotated[float, Field(ge=0.01, le=1e6), BeforeValidator(number)]


class ThompsonConfig(CountingConfig):
    """An arm is drawn as often as it is probably the best. `prior`: successes and failures before the first reward."""

    bandit: Literal["thompson"]
    noise: Literal["gaussian"] | None = None
    prior: tuple[_Count, _Count] = (1.0, 1.0)

    @property
    def takes_real(self) -> bool:
        return self.noise == "gaussian"

    @model_validator(mode="after")
    def _consistent(self) -> ThompsonConfig:
        if self.noise == "gaussian" and "prior" in self.model_fields_set:
            raise ValueError("prior counts successes and failures, and rewards with noise: gaussian are neither")
        return self

    def learning(self, arms: int) -> Thompson | GaussianThompson:
        from router.policies.thompson import GaussianThompson, Thompson

        if self.noise == "gaussian":
            return GaussianThompson(arms=arms, floor=self.floor, half_life=self.discount)
        return Thompson(arms=arms, floor=self.floor, half_life=self.discount, prior=self.prior)
