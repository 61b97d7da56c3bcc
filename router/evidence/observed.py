"""An experiment with an observer, which sees every decision and reward that the learner's fold credits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from broker.records.endpoint import Endpoint
from router.learning.experiment import ClosedReward, CreditedDecision, Experiment, Once
from router.policies.snapshot import WeightSnapshot

NEVER = 1 << 40  # ticks


class Observer(Protocol):
    """Is called with the credited decisions and the closed rewards of an experiment."""

    def decided(self, credited: Sequence[CreditedDecision]) -> None:
        """Receive decisions that count, in the order of the log, each once."""

    def rewarded(self, name: str, closed: Sequence[ClosedReward]) -> None:
        """Receive the values of a reward whose horizon is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedExperiment(Experiment[Any]):
    """The experiment of a policy that learns nothing: its weights stay."""

    policy: str = field()
    weights: tuple[float, ...]
    rankers: tuple[int, ...] = ()
    refresh_ticks: int = NEVER

    def start(self) -> Any:
        return ()

    def snapshot(self, state: Any, number: int) -> WeightSnapshot:
        del state
        return WeightSnapshot(number, self.weights)

    def phase(self, state: Any) -> str:
        del state
        return "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedExperiment(Experiment[Any]):
    """The experiment `inner`, whose decisions and rewards an observer sees, too.

    `rewards` begin with those of `inner`; the others are only observed. `policy` is the name in the rows that are
    read: another name than that of `inner` where `inner` is tried with the decisions of another policy.
    """

    inner: Experiment[Any]
    observer: Observer
    policy: str = field()
    rewards: tuple[str, ...] = field()

    @property
    def rankers(self) -> tuple[int, ...]:
        return self.inner.rankers

    @property
    def refresh_ticks(self) -> int:
        return self.inner.refresh_ticks

    def start(self) -> Any:
        return self.inner.start()

    def decided(self, state: Any, credited: Sequence[CreditedDecision], once: Once) -> Any:
        self.observer.decided(credited)
        return self.inner.decided(state, credited, once)

    def rewarded(self, state: Any, name: str, closed: Sequence[ClosedReward], once: Once) -> Any:
        self.observer.rewarded(name, closed)
        return self.inner.rewarded(state, name, closed, once) if name in self.inner.rewards else state

    def tick(self, state: Any) -> Any:
        return self.inner.tick(state)

    def ordered(self, state: Any, word: str) -> Any:
        return self.inner.ordered(state, word)

    def snapshot(self, state: Any, number: int) -> WeightSnapshot:
        return self.inner.snapshot(state, number)

    def phase(self, state: Any) -> str:
        return self.inner.phase(state)

    def is_over(self, state: Any) -> bool:
        return self.inner.is_over(state)

    def runs_by_itself(self, state: Any) -> bool:
        return self.inner.runs_by_itself(state)

    def about(self, state: Any) -> Mapping[str, Any]:
        return self.inner.about(state)


def rewards_seen(endpoint: Endpoint, experiment: Experiment[Any]) -> tuple[str, ...]:
    """Return the rewards to join: those of an experiment first, then all that the endpoint declares.

    Of the rewards from a truth only the first is joined: a row can be compared in one way. Clicks in merged lists are
    joined by item, which excludes other rewards.
    """
    if experiment.rankers:
        return experiment.rewards
    declared = endpoint.feedback.rewards
    names = tuple(dict.fromkeys((*experiment.rewards, *declared)))
    truths = [name for name in names if declared[name].source == "truth"]
    return tuple(name for name in names if name not in truths[1:])
