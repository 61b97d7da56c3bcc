"""The guardrails of a canary: each one watches bad events, or a reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from broker.support.strict import NAMED, Duration, DurationBounds, Fraction, ShareBounds, StrictModel, duration, number

if TYPE_CHECKING:  # numerical libraries are imported where they are needed
    from router.learning.canary import GuardrailWatch
    from router.policies.canary import BadEvents, RewardDrop

_SLOW = {"properties": {"bad": {"const": "slow"}}, "required": ["bad"]}
_SLOW_NEEDS_OVER: dict[str, Any] = {
    "if": _SLOW,
    "then": {"required": ["over"], "properties": {"over": {"type": "string"}}},
}


class BadGuardrail(StrictModel):
    """Bad events: requests that `failed`, or that took longer than `over` (`slow`).

    The canary is rolled back when it is shown to have more of them than the others. It is promoted only when it is
    proven to have less than `max_ratio` times as many, or, with `max_rate`, in less than that share of its requests.
    """

    model_config = ConfigDict(json_schema_extra=_SLOW_NEEDS_OVER)

    bad: Literal["failed", "slow"]
    over: Annotated[Duration, DurationBounds("1us", "7d", "limit")] | None = None
    max_ratio: Annotated[float, Field(gt=1.0, le=100.0), BeforeValidator(number)] = 1.5
    max_rate: Annotated[Fraction, ShareBounds(above=True, below=True)] | None = None

    @model_validator(mode="after")
    def _limited(self) -> BadGuardrail:
        if self.bad == "slow" and self.over is None:
            raise ValueError("over is missing: give the time from which on a request is slow, such as over: 250ms")
        if self.bad == "failed" and self.over is not None:
            raise ValueError("over is for bad: slow; a request has failed or not")
        return self

    @property
    def name(self) -> str:
        """The guardrail as operators read it."""
        return self.bad if self.over is None else f"{self.bad}, over {duration(self.over)}"

    @property
    def counts_events(self) -> bool:
        """Whether the guardrail counts bad events; otherwise it compares rewards."""
        return True

    @property
    def rule(self) -> BadEvents:
        """The tests of the guardrail."""
        from router.policies.canary import BadEvents

        return BadEvents(self.max_ratio, self.max_rate)

    @property
    def watch(self) -> GuardrailWatch:
        """The events that the experiment passes to the tests."""
        from router.learning.canary import GuardrailWatch

        return GuardrailWatch(over_us=None if self.over is None else round(self.over * 1e6))

    @property
    def watched(self) -> object:
        """Two guardrails must not have the same."""
        return self.bad, self.over


class RewardGuardrail(StrictModel):
    """A reward whose mean must be less than `max_drop` lower than that of the others."""

    reward: str = Field(json_schema_extra=NAMED)
    max_drop: Fraction = 0.02

    @property
    def name(self) -> str:
        """The guardrail as operators read it."""
        return self.reward

    @property
    def counts_events(self) -> bool:
        """Whether the guardrail counts bad events; otherwise it compares rewards."""
        return False

    @property
    def rule(self) -> RewardDrop:
        """The tests of the guardrail."""
        from router.policies.canary import RewardDrop

        return RewardDrop(self.max_drop)

    @property
    def watch(self) -> GuardrailWatch:
        """The events that the experiment passes to the tests."""
        from router.learning.canary import GuardrailWatch

        return GuardrailWatch(reward=self.reward)

    @property
    def watched(self) -> object:
        """Two guardrails must not have the same."""
        return self.reward


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
