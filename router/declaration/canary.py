"""The keys of a canary: its steps, its guardrails, and the stable side that has the rest of the traffic."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    field_validator,
    model_validator,
)

from broker.support.strict import NAMED, Duration, DurationBounds, Fraction, ShareBounds, StrictModel, number, whole
from router.declaration.bandit import BanditConfig, Counting, LinearConfig, bandit_named

_LIST_LIMIT = 32
_ONE_OR_MORE: dict[str, Any] = {"minItems": 1, "maxItems": _LIST_LIMIT}
_SLOW = {"properties": {"bad": {"const": "slow"}}, "required": ["bad"]}
_SLOW_NEEDS_OVER: dict[str, Any] = {
    "if": _SLOW,
    "then": {"required": ["over"], "properties": {"over": {"type": "string"}}},
}


class StepHold(StrictModel):
    """How long each of a canary's steps lasts at least: so many requests to the canary, and so much time."""

    canary_requests: Annotated[int, Field(ge=1, le=10**9), BeforeValidator(whole)] = 500
    time: Annotated[Duration, DurationBounds("1s", "30d", "hold")] = 600.0


class BadGuardrail(StrictModel):
    """Bad events: requests that `failed`, or that took longer than `over` (`slow`).

    The canary is taken back when it is shown to have more of them than the others, and promoted only when it is shown
    to have less than `max_ratio` times as many, or, with `max_rate`, in less than that share of its requests.
    """

    model_config = ConfigDict(json_schema_extra=_SLOW_NEEDS_OVER)

    bad: Literal["failed", "slow"]
    over: Annotated[Duration, DurationBounds("1us", "7d", "limit")] | None = None
    max_ratio: Annotated[float, Field(gt=1.0, le=100.0), BeforeValidator(number)] = 1.5
    max_rate: Annotated[Fraction, ShareBounds(above=True, below=True)] | None = None

    @model_validator(mode="after")
    def _limited(self) -> BadGuardrail:
        if self.bad == "slow" and self.over is None:
            raise ValueError("over is missing: say from when on a request is slow, such as over: 250ms")
        if self.bad == "failed" and self.over is not None:
            raise ValueError("over is for bad: slow; a request has failed or not")
        return self


class RewardGuardrail(StrictModel):
    """A reward whose mean is to be less than `max_drop` lower than that of the others."""

    reward: str = Field(json_schema_extra=NAMED)
    max_drop: Fraction = 0.02


def _is_bad_or_reward(value: Any) -> Any:
    if isinstance(value, (BadGuardrail, RewardGuardrail)):
        return value
    if not isinstance(value, Mapping) or ("bad" in value) == ("reward" in value):
        raise ValueError("a guardrail is one of {bad: failed}, {bad: slow, over: 250ms} and {reward: name}")
    return value


def _guardrail_tag(value: Any) -> str:
    is_reward = "reward" in value if isinstance(value, Mapping) else isinstance(value, RewardGuardrail)
    return RewardGuardrail.__name__ if is_reward else BadGuardrail.__name__


Guardrail = Annotated[
    Annotated[BadGuardrail, Tag("BadGuardrail")] | Annotated[RewardGuardrail, Tag("RewardGuardrail")],
    Discriminator(_guardrail_tag),
    BeforeValidator(_is_bad_or_reward),
]


def _is_arm_or_bandit(value: Any) -> Any:
    if isinstance(value, Mapping):
        _check_stable_bandit(value.get("bandit"))
        return value
    if not isinstance(value, (str, BanditConfig)):
        raise ValueError("write an arm, or a bandit: {bandit: thompson, reward: clicked}")  # noqa: TRY004 - for pydantic
    return value


def _check_stable_bandit(word: Any) -> None:
    if issubclass(bandit_named(word), LinearConfig):
        looks = f"{word} looks at features, which arms beside a canary cannot"
        raise ValueError(f"{looks}: use thompson")  # noqa: TRY004 - for pydantic


def _stable_tag(value: Any) -> str:
    if isinstance(value, Mapping):
        return bandit_named(value.get("bandit")).__name__
    return "str" if isinstance(value, str) else type(value).__name__


Stable = Annotated[
    Annotated[str, Tag("str"), Field(json_schema_extra=NAMED)] | Counting,
    Discriminator(_stable_tag),
    BeforeValidator(_is_arm_or_bandit),
]


_GUARDRAILS = (BadGuardrail(bad="failed"),)


class CanaryConfig(StrictModel):
    """The arm `canary` gets more and more of the traffic while nothing shows harm; `stable` has the rest.

    `alpha` is how probable a harmless canary is to be taken back; `timeout` takes back one without its proofs.
    """

    canary: str = Field(json_schema_extra=NAMED)
    stable: Stable
    steps: tuple[Annotated[Fraction, ShareBounds(above=True, below=True)], ...] = Field(
        default=(0.01, 0.05, 0.25, 0.5), json_schema_extra=_ONE_OR_MORE
    )
    hold: StepHold = StepHold()
    guardrails: tuple[Guardrail, ...] = Field(default=_GUARDRAILS, json_schema_extra=_ONE_OR_MORE)
    alpha: Annotated[Fraction, ShareBounds(above=True, most=0.5)] = 0.05
    on_no_data: Literal["hold", "rollback"] = "hold"
    on_promote: Literal["replace", "join"] = "replace"
    timeout: Annotated[Duration, DurationBounds("1s", "365d", "timeout")] = 86_400.0
    sticky: StrictBool = False

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(before < after for before, after in pairwise((0.0, *value, 1.0)))
        if not rising or not 1 <= len(value) <= _LIST_LIMIT:
            raise ValueError(f"1 to {_LIST_LIMIT} shares are expected that rise between 0% and 100%: [1%, 10%, 50%]")
        return value

    @field_validator("guardrails")
    @classmethod
    def _different(cls, value: tuple[Guardrail, ...]) -> tuple[Guardrail, ...]:
        if not 1 <= len(value) <= _LIST_LIMIT:
            raise ValueError(f"1 to {_LIST_LIMIT} are expected: without any nobody would see harm")
        watched = [(rail.bad, rail.over) if isinstance(rail, BadGuardrail) else rail.reward for rail in value]
        if len(set(watched)) < len(watched):
            raise ValueError("two of them watch the same: keep the one that you mean")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> CanaryConfig:
        least_s = len(self.steps) * self.hold.time
        if self.timeout <= least_s:
            raise ValueError(f"timeout: the steps take at least {least_s:g} s, so no canary could be promoted in time")
        if self.on_promote == "join" and isinstance(self.stable, str):
            raise ValueError("on_promote: a canary can join a bandit; stable is an arm, which it can replace")
        if self.sticky and any(isinstance(rail, BadGuardrail) and rail.max_rate for rail in self.guardrails):
            raise ValueError("guardrails: max_rate needs independent requests; with sticky those of a key are not")
        return self
