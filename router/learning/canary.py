"""The experiment of a canary, beside one stable arm or beside a bandit that keeps learning among the stable arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from router.learning.bandit import about_arms, seen_among
from router.learning.experiment import ClosedReward, CreditedDecision, Experiment, Once
from router.learning.rows import Decision
from router.policies.canary import Canary, CanaryPhase, CanaryState
from router.policies.learning import Learning
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import Bools, Floats, Ints

FAILED = ("failed", "expired", "overloaded")  # a healthy arm would have answered these requests
UNANSWERED = ("expired", "overloaded")

ENDED = {
    CanaryPhase.PROMOTED: "promoted",
    CanaryPhase.ABORTED: "aborted",
    CanaryPhase.TIMED_OUT: "timed out",
    CanaryPhase.STARVED: "starved",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailWatch:
    """The events that a guardrail counts: failed requests, requests slower than `over_us`, or a `reward`."""

    reward: str = ""
    over_us: int | None = None

    def is_bad(self, decision: Decision) -> bool:
        """Return True if a request went wrong by this measure."""
        if self.over_us is None:
            return decision.status in FAILED
        return decision.status in UNANSWERED or (decision.status == "ok" and decision.latency_us > self.over_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedBandit:
    """A bandit among the stable arms: `among` are their places, and `learning` has one arm for each, in that order.

    `joined` has the canary as one more arm, and takes over when the canary is promoted. If it is None, the canary
    replaces the stable arms.
    """

    learning: Learning[Any]
    joined: Learning[Any] | None
    among: tuple[int, ...]
    reward: str

    @property
    def widest(self) -> Learning[Any]:
        """The bandit with the canary as an arm, if there is one, else the bandit of the stable arms."""
        return self.learning if self.joined is None else self.joined


@dataclass(frozen=True, slots=True)
class CanaryStage:
    """The canary's state, and the nested bandit's (an empty tuple without one), whose last arm may be the canary."""

    canary: CanaryState
    nested: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryExperiment(Experiment[CanaryStage]):
    """`watches` are the events that the canary's guardrails count, in the order of the guardrails."""

    canary: Canary
    watches: tuple[GuardrailWatch, ...]
    nested: NestedBandit | None = None
    refresh_ticks: int = 1

    @property
    def policy(self) -> Literal["canary"]:
        return "canary"

    @property
    def rewards(self) -> tuple[str, ...]:
        named = [watch.reward for watch in self.watches] + ([self.nested.reward] if self.nested else [])
        return tuple(dict.fromkeys(name for name in named if name))

    def start(self) -> CanaryStage:
        return CanaryStage(self.canary.start(1), () if self.nested is None else self.nested.widest.start(1))

    def decided(self, state: CanaryStage, credited: Sequence[CreditedDecision], once: Once) -> CanaryStage:
        # Requests first, then events, guardrail by guardrail: a step may end between two of them.
        known = [one for one in credited if one.weights is not None]
        canary = state.canary
        served = sum(one.arm == self.canary.canary for one in known)
        canary = self.canary.fold_requests(canary, np.full(1, served))
        for place, watch in enumerate(self.watches):
            bad = [] if watch.reward else [one for one in known if watch.is_bad(one.decision)]
            if self.canary.sticky:
                bad = [one for one in bad if once(f"bad {place}", one.decision.key)]
            if bad:
                flags: Bools = np.array([one.arm == self.canary.canary for one in bad])
                share: Floats = np.array([(one.weights or ())[self.canary.canary] for one in bad])
                canary = self.canary.fold_bad(canary, place, np.zeros(len(bad), np.int64), flags, share)
        return replace(state, canary=canary)

    def rewarded(self, state: CanaryStage, name: str, closed: Sequence[ClosedReward], once: Once) -> CanaryStage:
        canary = state.canary
        for place, watch in enumerate(self.watches):
            if watch.reward != name:
                continue
            counted = closed
            if self.canary.sticky:
                counted = [one for one in closed if once(f"reward {place}", one.join.key)]
            if counted:
                flags: Bools = np.array([one.join.arm == self.canary.canary for one in counted])
                values: Floats = np.array([one.value for one in counted], np.float64)
                canary = self.canary.fold_rewards(canary, place, np.zeros(len(counted), np.int64), flags, values)
        return CanaryStage(canary, self._nested_rewarded(state.nested, name, closed))

    def tick(self, state: CanaryStage) -> CanaryStage:
        nested = state.nested if self.nested is None else self.nested.widest.tick(state.nested)
        return CanaryStage(self.canary.tick(state.canary), nested)

    def ordered(self, state: CanaryStage, word: str) -> CanaryStage:
        # An operator may set the phase while the canary runs, and afterwards.
        phase = {"promote": CanaryPhase.PROMOTED, "abort": CanaryPhase.ABORTED}.get(word)
        return state if phase is None else replace(state, canary=replace(state.canary, phase=np.full(1, phase)))

    def snapshot(self, state: CanaryStage, number: int) -> WeightSnapshot:
        weights = self.canary.weights(state.canary)[0]
        if self.nested is not None:
            weights = self._beside(self.nested, state, float(self.canary.share(state.canary)[0]))
        return WeightSnapshot(number, tuple(float(weight) for weight in weights))

    def phase(self, state: CanaryStage) -> str:
        phase = CanaryPhase(int(state.canary.phase[0]))
        step = f"step {int(state.canary.step[0]) + 1} of {len(self.canary.steps)}"
        return ENDED.get(phase, step)

    def is_over(self, state: CanaryStage) -> bool:
        return not _is_in(state, CanaryPhase.RUNNING)

    def runs_by_itself(self, state: CanaryStage) -> bool:
        # Steps have a minimum time and the canary has a timeout.
        return _is_in(state, CanaryPhase.RUNNING)

    def about(self, state: CanaryStage) -> Mapping[str, Any]:
        canary = state.canary
        harm, proof = self.canary.log_wealth(canary)
        tripped = int(canary.tripped[0])
        return {
            "share": float(self.canary.share(canary)[0]),
            "requests": int(canary.requests[0]),
            "served": int(canary.served[0]),
            "bad": [int(bad[0]) for bad in canary.bad],
            "harm_log_e": [float(one[0]) for one in harm],
            "proof_log_e": [float(one[0]) for one in proof],
            "tripped": None if tripped < 0 else tripped,
            **self._about_nested(state.nested),
        }

    def _about_nested(self, state: Any) -> Mapping[str, Any]:
        if self.nested is None:
            return {}
        joined = () if self.nested.joined is None else (self.canary.canary,)
        return about_arms(state, (*self.nested.among, *joined), len(self.canary.stable))

    def _nested_rewarded(self, state: Any, name: str, closed: Sequence[ClosedReward]) -> Any:
        if self.nested is None or name != self.nested.reward:
            return state
        among = self.nested.among
        if self.nested.joined is not None:
            among = (*among, self.canary.canary)
        return self.nested.widest.fold(state, seen_among(among, closed))

    def _beside(self, nested: NestedBandit, state: CanaryStage, share: float) -> Floats:
        """Return the weights of all arms: `share` for the canary, and the bandit's times 1 - `share` for the others."""
        weights = np.zeros(len(self.canary.stable))
        if nested.joined is not None and _is_in(state, CanaryPhase.PROMOTED):
            weights[[*nested.among, self.canary.canary]] = nested.joined.weights(state.nested)[0]
            return weights
        weights[list(nested.among)] = (1.0 - share) * nested.learning.weights(_first(state.nested, len(nested.among)))[
            0
        ]
        weights[self.canary.canary] = share
        return weights


def _is_in(state: CanaryStage, phase: CanaryPhase) -> bool:
    return bool(state.canary.phase[0] == phase)


def _first(state: Any, arms: int) -> Any:
    """Return a bandit's state cut to its first `arms`."""
    return type(state)(**{field.name: _narrow(getattr(state, field.name), arms) for field in fields(state)})


def _narrow(array: Ints, arms: int) -> Ints:
    return array[:, :arms]
