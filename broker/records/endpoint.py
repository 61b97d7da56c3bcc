"""The declaration of an endpoint, which clients address. The router reads its `policy`, which is opaque here."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from broker.records.rewards import FeedbackDeclaration
from broker.support.strict import (
    DURATION_PATTERN,
    NAMED,
    Duration,
    DurationBounds,
    Fraction,
    StrictModel,
    meant,
    named,
    read_model,
    seconds,
    shown,
    whole,
)

PARAMETER = "parameters."
_KEY = re.compile(r"header|parameters\.\S(?:.*\S)?")
_BACKOFF = rf"^{DURATION_PATTERN}(?:\.\.{DURATION_PATTERN})?$"
_TARGET = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})@([1-9][0-9]{0,8})")
_VERSION_LIMIT = 999_999_999  # the largest name of a version's folder
_ARMS_LIMIT = 64  # rows and headers have a mask with one bit for each arm


class Target(StrictModel):
    """The model version of an arm."""

    model: str = Field(json_schema_extra=NAMED)
    version: Annotated[int, Field(ge=1, le=_VERSION_LIMIT), BeforeValidator(whole)]

    @field_validator("model")
    @classmethod
    def _name(cls, value: str) -> str:
        return named("model", value)


def _target(value: Any) -> Any:
    if isinstance(value, (Mapping, Target)):
        return value
    match = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a model version: write model@version, such as fraud@3")
    return {"model": match[1], "version": int(match[2])}


_Short = Annotated[str, Field(pattern=f"^{_TARGET.pattern}$", examples=["fraud@3"])]
_Arm = Annotated[Target, BeforeValidator(_target, json_schema_input_type=Target | _Short)]


class Retry(StrictModel):
    """The rules for repeating a failed request."""

    attempts: Annotated[int, Field(ge=1, le=100), BeforeValidator(whole)] = 3
    backoff: str = Field(default="200ms..30s", json_schema_extra={"pattern": _BACKOFF})
    on: tuple[Literal["failed"], ...] = ()

    @field_validator("backoff")
    @classmethod
    def _range(cls, value: str) -> str:
        first, dots, last = value.partition("..")
        if seconds(first) > seconds(last if dots else first):
            raise ValueError(f"{value!r}: the first pause is longer than the last")
        return value

    def pause_s(self, attempts: int, draw: Callable[[], float] = random.random) -> float:
        """Return the pause in seconds after `attempts` attempts: doubled each time, less a random part of up to half.

        So requests that failed together are not repeated together. Brokers without delayed delivery round it up to a
        step.
        """
        first, _, last = self.backoff.partition("..")
        longest = min(seconds(first) * 2.0 ** max(0, attempts - 1), seconds(last or first))
        return longest * (1.0 - draw() / 2.0)


def _key(value: str) -> str:
    if _KEY.fullmatch(value):
        return value
    near = _meant_key(value)
    hint = f"did you mean {near!r}? " if near else ""
    raise ValueError(
        f"{shown(value)} is not a key: {hint}"
        "write header, or parameters. and the name of one, such as parameters.user_id"
    )


def _meant_key(value: str) -> str | None:
    """Return the known key most similar to `value`; a lone word is the name of a parameter."""
    first, dot, name = value.strip().partition(".")
    if meant(first, ["parameters"]):
        return PARAMETER + name.strip() if name.strip() else None
    return meant(first, ["header"]) or (PARAMETER + first if first and not dot else None)


_Key = Annotated[
    str,
    AfterValidator(_key),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{_KEY.pattern})$"}),
]


class Log(StrictModel):
    """The tensors in the event log: the share of requests whose tensors are kept, and the columns that never are."""

    sample: Fraction = 1.0
    drop: tuple[str, ...] = ()


class Exclusive(StrictModel):
    """The part of the keys that an experiment may use: `slice` is its begin and end, as two shares.

    Experiments of any endpoints that have the same group and disjoint slices never share a key.
    """

    group: str = Field(json_schema_extra=NAMED)
    slice: tuple[Fraction, Fraction]

    @field_validator("group")
    @classmethod
    def _name(cls, value: str) -> str:
        return named("group", value)

    @field_validator("slice")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"from {value[0]:g} to {value[1]:g} is not a part of the keys: write it as [0%, 50%]")
        return value


class Endpoint(StrictModel):
    """One endpoint: its arms, the key of its requests, their deadline, and their rewards.

    `key` is `header`, or `parameters.<name>` for a parameter of the request; a header has priority. `holdout` is the
    share of keys (of requests, if they have none) that always get the first arm, outside the experiment.
    """

    endpoint: str = Field(json_schema_extra=NAMED)
    arms: dict[str, _Arm] = Field(min_length=1, max_length=_ARMS_LIMIT, json_schema_extra={"propertyNames": NAMED})
    key: _Key | None = None
    experiment: str = ""
    deadline: Annotated[Duration, DurationBounds("1us", "7d", "deadline")] = 30.0  # headers count in whole microseconds
    retry: Retry = Retry()
    feedback: FeedbackDeclaration = FeedbackDeclaration()
    holdout: Fraction = 0.0
    exclusive: Exclusive | None = None
    policy: dict[str, Any] = Field(default={})
    results: Literal["drop", "keep", "none"] = "drop"
    log: Log = Log()

    @field_validator("endpoint")
    @classmethod
    def _name(cls, value: str) -> str:
        return named("endpoint", value)

    @field_validator("arms", mode="before")
    @classmethod
    def _named_arms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not value:
            raise ValueError("name at least one, such as {v1: fraud@1}")
        if len(value) > _ARMS_LIMIT:
            raise ValueError(f"{len(value)} are declared, an endpoint has at most {_ARMS_LIMIT}")
        return {named("arm", arm): target for arm, target in value.items()}

    @model_validator(mode="after")
    def _has_policy(self) -> Endpoint:
        if not self.policy and len(self.arms) > 1:
            raise ValueError(f"policy: {len(self.arms)} arms need one, such as {{split: [{', '.join(self.arms)}]}}")
        return self


def read_endpoint(data: Any, *, source: str) -> Endpoint:
    """Read a declaration from parsed YAML or JSON; raises Misconfigured with `source` and the wrong key."""
    return read_model(Endpoint, data, source=source)
