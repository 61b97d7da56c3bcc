"""The `feedback` of an endpoint's declaration: the rewards of its decisions, and the value of a missing one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from broker.support.strict import NAMED, Duration, DurationBounds, StrictModel, named, number, shown

REAL_LIMIT = 1e12  # for a real reward and for a sum of them: the learner's fixed-point units must fit into 64 bits
_REWARDS_LIMIT = 32
_TRUTH = {"properties": {"from": {"const": "truth"}}, "required": ["from"]}
_SCHEMA: dict[str, Any] = {
    "if": _TRUTH,
    "then": {"required": ["score"], "properties": {"score": {"type": "string"}}},
    "else": {"required": ["default"], "properties": {"score": {"const": None}, "output": {"const": ""}}},
}


def _number_or_skip(value: Any) -> float | Literal["skip"]:
    if value == "skip":
        return "skip"
    try:
        read = number(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is not a reward: write a number, or skip") from None
    if abs(read) > REAL_LIMIT:
        raise ValueError(f"{shown(value)} is not a reward: write a number from -1e12 to 1e12, or skip")
    return read


class Reward(StrictModel):
    """One reward: the rule that turns feedback into a number for a decision.

    `type` is `bool` (0 or 1), `unit` (0 to 1) or `real`. After `horizon` a reward is final: if no feedback has arrived
    by then, it is `default`, or with `skip` the decision is left out. Of several `duplicates` the first, the last or
    the greatest counts, or their sum. A sum needs the `event_id` of each feedback, because a repeated one would count
    twice.

    `source` is `from` in the file: `values` takes the number that feedback has under the reward's name; `truth` scores
    the answer's `output` (empty: the only one) against the true label, as `argmax` or `equal` (1 or 0) or as `error`
    (minus the absolute difference).
    """

    model_config = ConfigDict(json_schema_extra=_SCHEMA)

    type: Literal["bool", "unit", "real"] = "bool"
    horizon: Annotated[Duration, DurationBounds("1s", "30d", "horizon")] = 1800.0
    default: Annotated[
        float | Literal["skip"],
        BeforeValidator(_number_or_skip),
        WithJsonSchema(
            {"anyOf": [{"type": "number", "minimum": -REAL_LIMIT, "maximum": REAL_LIMIT}, {"const": "skip"}]}
        ),
    ] = "skip"
    duplicates: Literal["first", "max", "last", "sum"] = "first"
    source: Literal["values", "truth"] = Field(default="values", alias="from")
    score: Literal["argmax", "equal", "error"] | None = None
    output: str = Field(default="", max_length=256)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("from", "values") == "values" and "default" not in data:
            raise ValueError(
                "default is missing: a missing reward is not a zero until its horizon is over: set its value then, "
                "such as 0, or skip"
            )
        return {"type": "real", **data} if data.get("score") == "error" else data

    @model_validator(mode="after")
    def _consistent(self) -> Reward:
        if self.source == "truth" and self.score is None:
            raise ValueError("score is missing: say how an answer is scored by the truth: argmax, equal or error")
        if self.source == "values" and (self.score or self.output):
            raise ValueError("score and output are for rewards from: truth; those from values are numbers already")
        given = "real" if self.score == "error" else "bool"
        if self.score is not None and self.type != given:
            raise ValueError(f"score {self.score} gives a {given} reward: leave type out")
        if not self._fits(self.default):
            raise ValueError(f"default {self.default:g} is not a {self.type} reward: {_MEANING[self.type]}")
        return self

    def _fits(self, value: float | Literal["skip"]) -> bool:
        if value == "skip" or self.type == "real":
            return True
        return value in (0.0, 1.0) if self.type == "bool" else 0.0 <= value <= 1.0


_MEANING = {"bool": "write 0, 1 or skip", "unit": "write a number from 0 to 1, or skip"}


class FeedbackDeclaration(StrictModel):
    """The feedback that an endpoint expects: its rewards by name."""

    rewards: dict[str, Reward] = Field(
        default={}, max_length=_REWARDS_LIMIT, json_schema_extra={"propertyNames": NAMED}
    )

    @field_validator("rewards")
    @classmethod
    def _names(cls, value: dict[str, Reward]) -> dict[str, Reward]:
        for reward in value:
            named("reward", reward)
        return value
