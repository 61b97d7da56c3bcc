"""`split`: fixed shares, drawn for each request, or for each key if sticky."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, StrictBool, WithJsonSchema, field_validator

from broker.records.endpoint import Endpoint
from broker.support.strict import NAMED, number, shown
from router.declaration.checks import check_arms
from router.declaration.kind import PolicyConfig
from router.policies.policy import Policy
from router.policies.split import Split

_WEIGHT_LIMIT = 1e12


def _weights(value: Any) -> Any:
    """Read shares: a mapping of arms to weights, or a list of arms with equal weights."""
    if isinstance(value, list) and all(isinstance(arm, str) for arm in value):
        if len(set(value)) < len(value):
            raise ValueError("an arm is there twice")
        value = dict.fromkeys(value, 1.0)
    if not isinstance(value, dict) or not value:
        raise ValueError("arms are expected: with weights such as {v1: 90, v2: 10}, or alike such as [v1, v2]")
    for arm, weight in value.items():
        if not _is_weight(weight):
            raise ValueError(f"{shown(arm)}: {shown(weight)} is not a weight: a number of at least 0 is expected")
    return value


def _is_weight(value: Any) -> bool:
    try:
        return 0.0 <= number(value) <= _WEIGHT_LIMIT
    except ValueError:
        return False


_NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string", **NAMED}, "minItems": 1, "uniqueItems": True}
_SHARES: dict[str, Any] = {
    "type": "object",
    "propertyNames": NAMED,
    "additionalProperties": {"type": "number", "minimum": 0, "maximum": _WEIGHT_LIMIT},
    "minProperties": 1,
    "not": {"additionalProperties": {"const": 0}},
}


class SplitConfig(PolicyConfig):
    """Fixed shares: `split` gives each arm a weight, relative to the others; sticky: the same key gets the same arm."""

    is_replayable: ClassVar[bool] = True

    split: Annotated[dict[str, float], BeforeValidator(_weights), WithJsonSchema({"anyOf": [_SHARES, _NAMES]})]
    sticky: StrictBool = False

    @field_validator("split")
    @classmethod
    def _some(cls, value: dict[str, float]) -> dict[str, float]:
        if not sum(value.values()) > 0.0:
            raise ValueError("the weights sum to 0; give at least one arm some")
        return value

    def fitted(self, endpoint: Endpoint) -> Self:
        check_arms("split", self.split, endpoint)
        return self

    def policy(self, endpoint: Endpoint) -> Policy:
        return Split(tuple(self.split.get(arm, 0.0) for arm in endpoint.arms), sticky=self.sticky)
