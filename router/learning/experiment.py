"""What is learnt from an endpoint's log: one experiment a policy, each a pure fold of decisions, rewards and ticks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from router.learning.joins import Join
from router.learning.rows import Decision
from router.policies.snapshot import WeightSnapshot

State = TypeVar("State")

Once = Callable[[str, str], bool]
"""Tells whether a key comes for the first time, by the name of what it is counted for; without a key, always."""


@dataclass(frozen=True, slots=True)
class CreditedDecision:
    """A decision that counts: its arm's place, and the probabilities of all arms at the draw, if they are known."""

    decision: Decision
    arm: int
    weights: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class ClosedReward:
    """A reward whose horizon is over."""

    join: Join
    value: float


class Experiment(Protocol[State]):
    """A policy that learns, as the learner sees it. States hold arrays with one run, and are written by `packing`."""

    @property
    def policy(self) -> str:
        """The word that rows of this experiment carry."""

    @property
    def rewards(self) -> tuple[str, ...]:
        """The rewards that are joined to decisions."""

    @property
    def refresh_ticks(self) -> int:
        """How often a snapshot is taken, at most."""

    def start(self) -> State:
        """Return what is known before the first record."""

    def decided(self, state: State, credited: Sequence[CreditedDecision], once: Once) -> State:
        """Return the state after requests ended, in the order of the log."""

    def rewarded(self, state: State, name: str, closed: Sequence[ClosedReward], once: Once) -> State:
        """Return the state after the horizon of a reward was over for some decisions, in the order of the log."""

    def tick(self, state: State) -> State:
        """Return the state after a second of the log's clock."""

    def ordered(self, state: State, word: str) -> State:
        """Return the state after a person's `promote` or `abort`; as it was, if it knows no such order."""

    def snapshot(self, state: State, number: int) -> WeightSnapshot:
        """Return the probabilities that follow."""

    def phase(self, state: State) -> str:
        """Return the word for where it stands: `learning`, `step 2 of 4`, `promoted`, …"""

    def is_over(self, state: State) -> bool:
        """Tell whether what it was made to find out is found out."""

    def runs_by_itself(self, state: State) -> bool:
        """Tell whether time alone changes something, even if no request comes."""

    def about(self, state: State) -> Mapping[str, Any]:
        """Return numbers for people and metrics."""
