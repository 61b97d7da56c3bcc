"""`exp3`: exponential weights, with guarantees for any sequence of rewards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from broker.support.strict import number, shown
from router.kinds.bandit import CountingConfig
from router.policies.exp3 import Exp3


def _rate(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        read = number(value)
    except ValueError:
        read = 0.0
    if not 0.0 < read <= 100.0:
        raise ValueError(f"{shown(value)} is not a rate: write auto, or a number above 0 and at most 100")
    return read


_Rate = Annotated[
    float | Literal["auto"],
    BeforeValidator(_rate),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 100}, {"const": "auto"}]}),
]


class Exp3Config(CountingConfig):
    """Exponential weights, for rewards that follow no distribution. `rate` is the learning rate."""

    bandit: Literal["exp3"]
    rate: _Rate = "auto"

    def learning(self, arms: int) -> Exp3:
        rate = None if self.rate == "auto" else self.rate
        return Exp3(arms=arms, floor=self.floor, half_life=self.discount, rate=rate)
