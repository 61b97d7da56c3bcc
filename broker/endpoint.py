"""The declaration of an endpoint: what clients address. Its `policy` is opaque here; the router reads it."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from broker.channels import check_name
from broker.errors import Misconfigured

_M = TypeVar("_M", bound=BaseModel)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TARGET = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})@([1-9][0-9]{0,8})")
_DEADLINE_LEAST_S = 1e-6  # headers count in whole microseconds
_DEADLINE_MOST_S = 7 * 86400.0  # as much as a client may ask for
_VERSION_LIMIT = 999_999_999  # what a version's folder may be called
_ARMS_LIMIT = 64  # a bit each in the mask that rows and headers carry


def seconds(value: Any) -> float:
    """Read a duration such as `250ms`, `2s` or `10m`; a bare number is refused, it has no unit."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration: write a number with us, ms, s, m, h or d, such as 250ms")
    return float(match[1]) * _SECONDS[match[2]]


def duration(value_s: float) -> str:
    """Write a duration so that `seconds` reads exactly the same number: without an exponent."""
    return f"{Decimal(repr(value_s)):f}s"


def fraction(value: Any) -> float:
    """Read a share: `20%`, or a bare number between 0 and 1."""
    number = float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else float(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{value!r} is not a share: write 20% or 0.2")
    return number


Duration = Annotated[float, BeforeValidator(seconds)]
Fraction = Annotated[float, BeforeValidator(fraction)]


class Declared(BaseModel):
    """What every part of a declaration is: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(Declared):
    """The model version that an arm stands for."""

    model: str
    version: int = Field(strict=True, ge=1, le=_VERSION_LIMIT)

    @field_validator("model")
    @classmethod
    def _name(cls, value: str) -> str:
        return _named("model", value)


class Retry(Declared):
    """When a request that failed is tried again."""

    attempts: int = Field(default=3, ge=1, le=100)
    backoff: str = "200ms..30s"
    on: tuple[Literal["failed"], ...] = ()

    @field_validator("backoff")
    @classmethod
    def _range(cls, value: str) -> str:
        first, _, last = value.partition("..")
        if seconds(first) > seconds(last or first):
            raise ValueError(f"{value!r}: the first pause is longer than the last")
        return value

    def pause_s(self, attempts: int, draw: Callable[[], float] = random.random) -> float:
        """Return the pause after so many attempts: doubled each time within the range, less up to half of it by lot.

        So what failed together is not tried again together. Brokers without delays of their own round it up.
        """
        first, _, last = self.backoff.partition("..")
        longest = min(seconds(first) * 2.0 ** max(0, attempts - 1), seconds(last or first))
        return longest * (1.0 - draw() / 2.0)


class Log(Declared):
    """What events may hold: the share of requests whose tensors are kept, and columns that never are."""

    sample: Fraction = 1.0
    drop: tuple[str, ...] = ()


class Endpoint(Declared):
    """One endpoint: its arms, how requests are told apart, and how long they may take."""

    endpoint: str
    arms: dict[str, Target]
    key: str | None = None
    experiment: str = ""
    deadline: Duration = 30.0
    retry: Retry = Retry()
    feedback: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    results: Literal["drop", "keep", "none"] = "drop"
    log: Log = Log()

    @field_validator("endpoint")
    @classmethod
    def _name(cls, value: str) -> str:
        return _named("endpoint", value)

    @field_validator("deadline")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if not _DEADLINE_LEAST_S <= value <= _DEADLINE_MOST_S:
            raise ValueError(f"{value:g} seconds are no deadline: write one from 1us to 7d")
        return value

    @field_validator("arms", mode="before")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not value:
            raise ValueError("arms: name at least one, such as {v1: fraud@1}")
        if len(value) > _ARMS_LIMIT:
            raise ValueError(f"arms: {len(value)} are declared, an endpoint has at most {_ARMS_LIMIT}")
        return {_named("arm", arm): _target(target) for arm, target in value.items()}

    @model_validator(mode="after")
    def _has_policy(self) -> Endpoint:
        if not self.policy and len(self.arms) > 1:
            raise ValueError(f"policy: {len(self.arms)} arms need one, such as {{split: {{{', '.join(self.arms)}}}}}")
        return self


def read_endpoint(data: Any, *, source: str) -> Endpoint:
    """Read a declaration from parsed YAML or JSON; raises Misconfigured naming `source` and the key."""
    return read_model(Endpoint, data, source=source)


def read_model(kind: type[_M], data: Any, *, source: str) -> _M:
    """Read any strict pydantic model; its errors become one Misconfigured that a person can act on."""
    if not isinstance(data, Mapping):
        raise Misconfigured(f"{source}: a mapping of keys is expected, found {type(data).__name__}")
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        raise Misconfigured("\n".join(f"{source}: {_explain(kind, error)}" for error in exc.errors())) from exc


def _explain(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return (
            f"{where}: {error['msg'].removeprefix('Value error, ')}"
            if where
            else str(error["msg"]).removeprefix("Value error, ")
        )
    owner = _owner(kind, error["loc"][:-1])
    near = difflib.get_close_matches(str(error["loc"][-1]), owner, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(owner)}"
    return f"{where}: unknown key; {hint}"


def _owner(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            kind = inner
    return [field.alias or name for name, field in kind.model_fields.items()]


def _named(what: str, value: Any) -> str:
    try:
        return check_name(what, value)
    except Misconfigured as exc:
        raise ValueError(str(exc)) from exc


def _target(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value
    match = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a model version: write model@version, such as fraud@3")
    return {"model": match[1], "version": int(match[2])}
