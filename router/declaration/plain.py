"""The keys of the policies that do not learn. What follows from the endpoint is checked by `read_config`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, WithJsonSchema, field_validator

from broker.support.strict import (
    NAMED,
    Duration,
    DurationBounds,
    Fraction,
    ShareBounds,
    StrictModel,
    number,
    shown,
    whole,
)
from router.interleaving.interleave import LENGTH_LIMIT, METHODS, RANKERS_LIMIT

_WEIGHT_LIMIT = 1e12


def _weights(value: Any) -> Any:
    """Read shares: a mapping of arms to weights, or a list of arms that have the same."""
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
_RANKERS: dict[str, Any] = {"minItems": 2, "maxItems": RANKERS_LIMIT, "uniqueItems": True}


class SplitConfig(StrictModel):
    """Fixed shares: `split` gives each arm a weight, relative to the others; sticky: the same key gets the same arm."""

    split: Annotated[dict[str, float], BeforeValidator(_weights), WithJsonSchema({"anyOf": [_SHARES, _NAMES]})]
    sticky: StrictBool = False

    @field_validator("split")
    @classmethod
    def _some(cls, value: dict[str, float]) -> dict[str, float]:
        if not sum(value.values()) > 0.0:
            raise ValueError("the weights sum to 0; give at least one arm some")
        return value


class ShadowConfig(StrictModel):
    """`serve` answers; the arm `shadow` gets a `sample` of the same requests, and its output `compare` is compared."""

    shadow: str = Field(json_schema_extra=NAMED)
    serve: str = Field(json_schema_extra=NAMED)
    sample: Fraction = 1.0
    compare: str = Field(default="", max_length=256)


class StopRule(StrictModel):
    """When interleaving ends: a ranker is proven the best at `alpha`, or after `max` in any case (none: never)."""

    alpha: Annotated[Fraction, ShareBounds(above=True, most=0.5)] = 0.05
    max: Annotated[Duration, DurationBounds("1s", "365d", "length of an experiment")] | None = None


class InterleaveConfig(StrictModel):
    """Several arms rank the same items in their `output`; the client gets one list of `length` items made of all.

    Feedback named `credit`, with an item, is a click. A ranker that takes longer than `wait` is left out.
    """

    interleave: tuple[Annotated[str, Field(json_schema_extra=NAMED)], ...] = Field(json_schema_extra=_RANKERS)
    credit: str = Field(json_schema_extra=NAMED)
    method: str = Field(default="team_draft", json_schema_extra={"enum": [*METHODS]})
    length: Annotated[int, Field(ge=1, le=LENGTH_LIMIT), BeforeValidator(whole)] = 10
    output: str = Field(default="", max_length=256)
    wait: Annotated[Duration, DurationBounds("1ms", "10m", "wait")] = 1.0
    stop: StopRule = StopRule()
