"""`interleave`: several arms rank the same items, and clicks in the merged list show which ranker is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field

from broker.records.endpoint import Endpoint
from broker.support.strict import NAMED, Duration, DurationBounds, Fraction, ShareBounds, StrictModel, whole
from router.declaration.checks import check_arms, check_bounded, declared_reward
from router.declaration.kind import PolicyConfig
from router.declaration.policy import ticks
from router.evidence.sections import Cell, Section, Table
from router.evidence.standing import at, e_value, list_in, number_of, whole_of
from router.interleaving.interleave import LENGTH_LIMIT, METHODS, RANKERS_LIMIT, check_method
from router.policies.interleaving import Interleaving
from router.simulation.spec import SimulationSpec

if TYPE_CHECKING:  # numerical libraries are imported where they are needed
    from router.learning.experiment import Experiment

_RANKERS: dict[str, Any] = {"minItems": 2, "maxItems": RANKERS_LIMIT, "uniqueItems": True}


class StopRule(StrictModel):
    """When interleaving ends: once a ranker is proven the best at `alpha`, or after `max` (none: never)."""

    alpha: Annotated[Fraction, ShareBounds(above=True, most=0.5)] = 0.05
    max: Annotated[Duration, DurationBounds("1s", "365d", "length of an experiment")] | None = None


class InterleaveConfig(PolicyConfig):
    """Several arms rank the same items in their `output`; the client gets one list of `length` items merged from all.

    Feedback named `credit`, with an item, is a click. A ranker that takes longer than `wait` is left out.
    """

    commands: ClassVar[tuple[str, ...]] = ("abort",)
    draws_arms: ClassVar[bool] = False

    interleave: tuple[Annotated[str, Field(json_schema_extra=NAMED)], ...] = Field(json_schema_extra=_RANKERS)
    credit: str = Field(json_schema_extra=NAMED)
    method: str = Field(default="team_draft", json_schema_extra={"enum": [*METHODS]})
    length: Annotated[int, Field(ge=1, le=LENGTH_LIMIT), BeforeValidator(whole)] = 10
    output: str = Field(default="", max_length=256)
    wait: Annotated[Duration, DurationBounds("1ms", "10m", "wait")] = 1.0
    stop: StopRule = StopRule()

    def fitted(self, endpoint: Endpoint) -> Self:
        check_arms("interleave", self.interleave, endpoint)
        try:
            check_method(self.method, len(self.interleave), self.length)
        except ValueError as exc:
            raise ValueError(f"policy: {exc}") from exc
        reward = declared_reward("credit", self.credit, endpoint)
        check_bounded("credit", self.credit, reward)
        if reward.source == "truth":
            raise ValueError(f"policy: credit: {self.credit} is from: truth, and a click is a value of an item")
        if self.wait >= endpoint.deadline:
            raise ValueError(
                f"policy: wait: {self.wait:g} s for a ranker leave nothing of the deadline, {endpoint.deadline:g} s"
            )
        return self

    def policy(self, endpoint: Endpoint) -> Interleaving:
        arms = tuple(endpoint.arms)
        return Interleaving(
            arms=len(arms),
            rankers=tuple(sorted(arms.index(arm) for arm in self.interleave)),
            method=self.method,
            length=self.length,
            output=self.output,
            reward=self.credit,
            wait_s=self.wait,
            alpha=self.stop.alpha,
            max_ticks=None if self.stop.max is None else ticks(self.stop.max),
        )

    def experiment(self, endpoint: Endpoint) -> Experiment[Any]:
        from router.learning.interleaving import InterleavingExperiment

        return InterleavingExperiment(declared=self.policy(endpoint))

    def standing(self, endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
        del endpoint
        pairs = list_in(about, "pairs")
        if not pairs:
            return []
        difference, low, high, log_e = (list_in(about, name) for name in ("difference", "low", "high", "log_e"))
        rows: list[Sequence[Cell]] = [
            (
                f"{self.interleave[first]} - {self.interleave[second]}",
                at(difference, place),
                at(low, place),
                at(high, place),
                e_value(number_of(at(log_e, place))),
                f"{len(pairs) / self.stop.alpha:g}",
            )
            for place, (first, second) in enumerate(pairs)
        ]
        columns = ("pair", "difference of credit", "low", "high", "E", "proven at")
        notes = [f"{whole_of(about.get('votes'))} votes; the limits hold at every look, for all pairs at once"]
        return [Table(key="preference", title="Preference", columns=columns, rows=rows, notes=notes)]

    def simulated(self, endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
        from router.simulation.reports import simulated_interleaving

        del endpoint
        return simulated_interleaving(self.interleave, self.method, self.length, self.stop.alpha, spec=spec)
