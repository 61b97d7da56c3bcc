"""An experiment with somebody looking on: what the learner's own fold credits, seen from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from broker.records.endpoint import Endpoint
from router.learning.experiment import ClosedReward, CreditedDecision, Experiment, Once
from router.policies.snapshot import WeightSnapshot

NEVER = 1 << 40  # ticks
INTERLEAVE = "interleave"


class Observer(Protocol):
    """Who looks on."""

    def decided(self, credited: Sequence[CreditedDecision]) -> None:
        """See decisions that count, in the order of the log, each once."""

    def rewarded(self, name: str, closed: Sequence[ClosedReward]) -> None:
        """See the rewards whose horizon is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedExperiment:
    """A policy that learns nothing, as an experiment: its weights stay."""

    policy: str
    weights: tuple[float, ...]
    rewards: tuple[str, ...] = ()
    refresh_ticks: int = NEVER

    def start(self) -> Any:
        """See the protocol."""
        return ()

    def decided(self, state: Any, credited: Sequence[CreditedDecision], once: Once) -> Any:
        """See the protocol."""
        del credited, once
        return state

    def rewarded(self, state: Any, name: str, closed: Sequence[ClosedReward], once: Once) -> Any:
        """See the protocol."""
        del name, closed, once
        return state

    def tick(self, state: Any) -> Any:
        """See the protocol."""
        return state

    def ordered(self, state: Any, word: str) -> Any:
        """See the protocol."""
        del word
        return state

    def snapshot(self, state: Any, number: int) -> WeightSnapshot:
        """See the protocol."""
        del state
        return WeightSnapshot(number, self.weights)

    def phase(self, state: Any) -> str:
        """See the protocol."""
        del state
        return "fixed"

    def is_over(self, state: Any) -> bool:
        """See the protocol."""
        del state
        return False

    def runs_by_itself(self, state: Any) -> bool:
        """See the protocol."""
        del state
        return False

    def about(self, state: Any) -> Mapping[str, Any]:
        """See the protocol."""
        del state
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedExperiment:
    """`inner` as it is, with a witness. `rewards` may be more than those that it learns from, which come first.

    `policy` is the word of the rows that are taken for its own: another one's, where it is asked what it would have
    made of them.
    """

    inner: Experiment[Any]
    witness: Observer
    policy: str
    rewards: tuple[str, ...]

    @property
    def refresh_ticks(self) -> int:
        """See the protocol."""
        return self.inner.refresh_ticks

    def start(self) -> Any:
        """See the protocol."""
        return self.inner.start()

    def decided(self, state: Any, credited: Sequence[CreditedDecision], once: Once) -> Any:
        """See the protocol."""
        self.witness.decided(credited)
        return self.inner.decided(state, credited, once)

    def rewarded(self, state: Any, name: str, closed: Sequence[ClosedReward], once: Once) -> Any:
        """See the protocol."""
        self.witness.rewarded(name, closed)
        return self.inner.rewarded(state, name, closed, once) if name in self.inner.rewards else state

    def tick(self, state: Any) -> Any:
        """See the protocol."""
        return self.inner.tick(state)

    def ordered(self, state: Any, word: str) -> Any:
        """See the protocol."""
        return self.inner.ordered(state, word)

    def snapshot(self, state: Any, number: int) -> WeightSnapshot:
        """See the protocol."""
        return self.inner.snapshot(state, number)

    def phase(self, state: Any) -> str:
        """See the protocol."""
        return self.inner.phase(state)

    def is_over(self, state: Any) -> bool:
        """See the protocol."""
        return self.inner.is_over(state)

    def runs_by_itself(self, state: Any) -> bool:
        """See the protocol."""
        return self.inner.runs_by_itself(state)

    def about(self, state: Any) -> Mapping[str, Any]:
        """See the protocol."""
        return self.inner.about(state)


def rewards_seen(endpoint: Endpoint, experiment: Experiment[Any]) -> tuple[str, ...]:
    """Return the rewards that are joined: those that an experiment learns from first, then all that are declared.

    Of those that are scored by a truth only the first: one way of comparing is read from a row. Clicks in a list are
    joined by item, and nothing else is then.
    """
    if experiment.policy == INTERLEAVE:
        return experiment.rewards
    declared = endpoint.feedback.rewards
    names = tuple(dict.fromkeys((*experiment.rewards, *declared)))
    truths = [name for name in names if declared[name].source == "truth"]
    return tuple(name for name in names if name not in truths[1:])
