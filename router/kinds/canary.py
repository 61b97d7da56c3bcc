"""`canary`: a new arm gets more and more of the traffic while no guardrail shows harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    field_validator,
    model_validator,
)

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from broker.support.strict import (
    NAMED,
    Duration,
    DurationBounds,
    Fraction,
    ShareBounds,
    StrictModel,
    whole,
)
from router.declaration.checks import check_arms, check_bounded, check_not_first, declared_reward
from router.declaration.kind import PolicyConfig
from router.declaration.policy import ticks, uniform
from router.declaration.registry import BANDITS
from router.evidence.sections import Cell, Section, Table
from router.evidence.standing import at, e_value, list_in, number_of, whole_of
from router.kinds.bandit import BanditConfig, bandit_named, places_of
from router.kinds.guardrails import BadGuardrail, Guardrail
from router.policies.learned import LearnedPolicy
from router.policies.policy import Policy
from router.simulation.spec import SimulationSpec

if TYPE_CHECKING:  # numerical libraries are imported where they are needed
    from router.learning.canary import CanaryExperiment, NestedBandit
    from router.policies.canary import Canary

_LIST_LIMIT = 32
_ONE_OR_MORE: dict[str, Any] = {"minItems": 1, "maxItems": _LIST_LIMIT}


class StepHold(StrictModel):
    """The least length of each step of a canary: a number of requests to the canary, and a time."""

    canary_requests: Annotated[int, Field(ge=1, le=10**9), BeforeValidator(whole)] = 500
    time: Annotated[Duration, DurationBounds("1s", "30d", "hold")] = 600.0


def _is_arm_or_bandit(value: Any) -> Any:
    if isinstance(value, Mapping):
        _check_stable_bandit(value.get("bandit"))
        return value
    if not isinstance(value, (str, BanditConfig)):
        raise ValueError("write an arm, or a bandit: {bandit: thompson, reward: clicked}")  # noqa: TRY004 - for pydantic
    return value


def _check_stable_bandit(word: Any) -> None:
    if bandit_named(word).uses_features:
        raise ValueError(f"{word} uses features, which the stable side of a canary does not support: use thompson")


def _stable_tag(value: Any) -> str:
    if isinstance(value, Mapping):
        return bandit_named(value.get("bandit")).__name__
    return "str" if isinstance(value, str) else type(value).__name__


def _stable_type() -> Any:
    """Return the type of `stable`: an arm, or any registered bandit that uses no features."""
    bandits = [bandit_named(word) for word in BANDITS]
    tagged = [Annotated[bandit, Tag(bandit.__name__)] for bandit in bandits if not bandit.uses_features]
    arm = Annotated[str, Tag("str"), Field(json_schema_extra=NAMED)]
    return Annotated[reduce(or_, tagged, arm), Discriminator(_stable_tag), BeforeValidator(_is_arm_or_bandit)]


if TYPE_CHECKING:
    Stable = str | BanditConfig
else:
    Stable = _stable_type()


_GUARDRAILS = (BadGuardrail(bad="failed"),)


class CanaryConfig(PolicyConfig):
    """The arm `canary` gets more and more of the traffic while no guardrail shows harm; `stable` has the rest.

    `alpha` bounds the probability that a harmless canary is rolled back. After `timeout` a canary without its proofs is
    rolled back.
    """

    commands: ClassVar[tuple[str, ...]] = ("promote", "abort")

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
            raise ValueError(f"1 to {_LIST_LIMIT} are expected: without any, harm would not be detected")
        if len({rail.watched for rail in value}) < len(value):
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

    @property
    def stable_arms(self) -> tuple[str, ...]:
        """The arms that share the rest of the traffic."""
        return (self.stable,) if isinstance(self.stable, str) else self.stable.arms

    @property
    def stable_bandit(self) -> BanditConfig | None:
        """The bandit on the stable side; None if one arm is there."""
        return None if isinstance(self.stable, str) else self.stable

    def fitted(self, endpoint: Endpoint) -> Self:
        check_arms("canary", [self.canary], endpoint)
        check_not_first("canary", self.canary, endpoint)
        if self.sticky and endpoint.key is None:
            raise ValueError("policy: sticky: the endpoint has no key: declare one, such as key: parameters.user_id")
        for place, rail in enumerate(self.guardrails):
            if not rail.counts_events:
                where = f"guardrails.{place}.reward"
                check_bounded(where, rail.name, declared_reward(where, rail.name, endpoint))
        bandit = self.stable_bandit
        where = "stable" if bandit is None else "stable.arms"
        check_arms(where, self.stable_arms, endpoint)
        if self.canary in self.stable_arms:
            raise ValueError(f"policy: {where}: {self.canary} is the canary: it cannot be on the stable side, too")
        if bandit is None:
            return self
        others = [arm for arm in endpoint.arms if arm != self.canary]
        return self.model_copy(update={"stable": bandit.fitted_among(others, endpoint, prefix="stable.")})

    def policy(self, endpoint: Endpoint) -> Policy:
        share = self.steps[0]
        stable = uniform(self.stable_arms, endpoint.arms)
        weights = [
            share if arm == self.canary else (1.0 - share) * stable[place] for place, arm in enumerate(endpoint.arms)
        ]
        return LearnedPolicy("canary", tuple(weights), sticky=self.sticky)

    def state_machine(self, endpoint: Endpoint) -> Canary:
        """Return the canary's state machine over the endpoint's arms; a bandit on its stable side begins uniform."""
        from router.policies.canary import Canary

        return Canary(
            canary=list(endpoint.arms).index(self.canary),
            stable=uniform(self.stable_arms, endpoint.arms),
            steps=self.steps,
            hold_requests=self.hold.canary_requests,
            hold_ticks=ticks(self.hold.time),
            guardrails=tuple(rail.rule for rail in self.guardrails),
            alpha=self.alpha,
            on_no_data=self.on_no_data,
            timeout_ticks=ticks(self.timeout),
            sticky=self.sticky,
        )

    def experiment(self, endpoint: Endpoint) -> CanaryExperiment:
        from router.learning.canary import CanaryExperiment

        return CanaryExperiment(
            canary=self.state_machine(endpoint),
            watches=tuple(rail.watch for rail in self.guardrails),
            nested=self._nested(endpoint),
        )

    def _nested(self, endpoint: Endpoint) -> NestedBandit | None:
        from router.learning.canary import NestedBandit

        bandit = self.stable_bandit
        if bandit is None:
            return None
        reward, among = endpoint.feedback.rewards[bandit.reward], places_of(bandit.arms, endpoint)
        joined = bandit.learning_from(reward, len(among) + 1) if self.on_promote == "join" else None
        learning = bandit.learning_from(reward, len(among))
        return NestedBandit(learning=learning, joined=joined, among=among, reward=bandit.reward)

    def standing(self, endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
        if "harm_log_e" not in about:
            return []
        share = (
            ("share", f"{100 * number_of(about.get('share')):g} %"),
            ("requests at this step", whole_of(about.get("requests"))),
            ("requests needed at a step", self.hold.canary_requests),
            ("requests in all", whole_of(about.get("served"))),
        )
        bandit = self.stable_bandit
        return [
            Table(key="canary", title=f"The canary, {self.canary}", columns=("what", "now"), rows=share),
            self._guardrail_table(about),
            *([] if bandit is None else bandit.standing(endpoint, about)),
        ]

    def _guardrail_table(self, about: Mapping[str, Any]) -> Table:
        rails, abort, promote = len(self.guardrails), len(self.guardrails) / self.alpha, 1.0 / self.alpha
        bad, harm, proof = (list_in(about, name) for name in ("bad", "harm_log_e", "proof_log_e"))
        tripped = about.get("tripped")
        rows: list[Sequence[Cell]] = [
            (
                rail.name,
                whole_of(at(bad, place)) if rail.counts_events else None,
                e_value(number_of(at(harm, place))),
                f"{abort:g}",
                e_value(number_of(at(proof, place))),
                f"{promote:g}",
                "aborted it" if tripped == place else "",
            )
            for place, rail in enumerate(self.guardrails)
        ]
        notes = [
            f"aborted when the E-value of harm reaches {abort:g} ({rails} / alpha) for any; promoted after the last "
            f"step when that of the proof reaches {promote:g} (1 / alpha) for all"
        ]
        columns = ("guardrail", "bad events", "E of harm", "aborts at", "E of the proof", "promotes at", "")
        return Table(key="guardrails", title="Its guardrails", columns=columns, rows=rows, notes=notes)

    def subject(self, endpoint: Endpoint) -> str:
        return f"{self.canary} of {endpoint.endpoint}"

    def advice(self, endpoint: Endpoint, phase: str, weights: Sequence[float]) -> str:
        arms, bandit = list(self.stable_arms), self.stable_bandit
        if phase == "promoted":
            joined = bandit is not None and self.on_promote == "join"
            after = _short(bandit, [*arms, self.canary]) if joined else _short(None, [self.canary])
            return f"policy: {after} makes it permanent"
        return (
            f"policy: {_short(bandit, arms)}; repair {self.canary} before you try it again under another `experiment`"
        )

    def simulated(self, endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
        from router.simulation.reports import simulated_canary

        watched = [rail for rail in self.guardrails if rail.counts_events]
        if not watched:
            raise Misconfigured("only guardrails on bad events can be simulated, and this canary has none")
        return simulated_canary(
            self.state_machine(endpoint),
            place=self.guardrails.index(watched[0]),
            guardrails=[rail.name for rail in self.guardrails],
            canary_arm=self.canary,
            stable_arms=self.stable_arms,
            hold_s=self.hold.time,
            timeout_s=self.timeout,
            spec=spec,
        )


def _short(bandit: BanditConfig | None, arms: list[str]) -> str:
    """Return the declaration of a bandit over `arms`, shortened; of none, a split."""
    if bandit is None:
        return f"{{split: [{', '.join(arms)}]}}"
    return f"{{bandit: {bandit.bandit}, reward: {bandit.reward}, arms: [{', '.join(arms)}], …}}"
