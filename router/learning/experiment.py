"""An experiment: the learning part of a policy, as a pure fold of decisions, rewards and ticks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from broker.records.endpoint import Endpoint
from broker.records.rewards import Reward
from broker.records.routing import experiment_of
from router.learning.joins import Join
from router.learning.rows import Decision
from router.policies.snapshot import WeightSnapshot

SPARE_US = 60_000_000  # after a request's deadline: its row may still come twice for this long

State = TypeVar("State")

Once = Callable[[str, str], bool]
"""`once(kind, key)` returns True the first time that a key is counted for `kind`, and always for an empty key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """The log that an experiment folds: an endpoint's arms in order, and its rewards.

    A request's row may come twice within `dedupe_us`.
    """

    endpoint: str
    experiment: str
    arms: tuple[str, ...]
    rewards: Mapping[str, Reward]
    dedupe_us: int


@dataclass(frozen=True, slots=True)
class CreditedDecision:
    """A decision that counts: the place of its arm, and the probabilities of all arms at the draw, None if unknown."""

    decision: Decision
    arm: int
    weights: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class ClosedReward:
    """A reward whose horizon is over."""

    join: Join
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """The posterior of the arms' mean rewards: for each of `arms` (places) its probability to be `best`, and quantiles.

    `quantiles` has one sequence for each level that was asked for.
    """

    arms: Sequence[int]
    best: Sequence[float]
    quantiles: Sequence[Sequence[float]]


class Experiment(ABC, Generic[State]):
    """The learning part of a policy. States are dataclasses of arrays with one run, which `stats.packing` can write.

    All methods are pure: the same log has to give the same states, byte for byte.
    """

    @property
    @abstractmethod
    def policy(self) -> str:
        """The policy name in the rows of this experiment's decisions."""

    @property
    def rewards(self) -> tuple[str, ...]:
        """The names of the rewards that are joined to decisions."""
        return ()

    @property
    def rankers(self) -> tuple[int, ...]:
        """The arms whose lists are merged into one answer; empty if each request is answered by one arm.

        With rankers, a decision is a merged list, feedback is by item, and the value of each closed reward is 1.
        """
        return ()

    @property
    def refresh_ticks(self) -> int:
        """The fewest ticks between two snapshots."""
        return 5

    @abstractmethod
    def start(self) -> State:
        """Return the state before the first record."""

    def decided(self, state: State, credited: Sequence[CreditedDecision], once: Once) -> State:
        """Return the state after some requests have ended, in the order of the log."""
        del credited, once
        return state

    def rewarded(self, state: State, name: str, closed: Sequence[ClosedReward], once: Once) -> State:
        """Return the state after the horizon of reward `name` has ended for some decisions, in the order of the log."""
        del name, closed, once
        return state

    def tick(self, state: State) -> State:
        """Return the state after one tick, a second of the log's clock."""
        return state

    def ordered(self, state: State, word: str) -> State:
        """Return the state after an operator's `promote` or `abort`; unchanged if the policy has no such command."""
        del word
        return state

    @abstractmethod
    def snapshot(self, state: State, number: int) -> WeightSnapshot:
        """Return the snapshot with this number: the probabilities that follow from a state."""

    def phase(self, state: State) -> str:
        """Return the phase in words for operators: `learning`, `step 2 of 4`, `promoted`, …"""
        del state
        return "learning"

    def is_over(self, state: State) -> bool:
        """Return True once the experiment has its result."""
        del state
        return False

    def runs_by_itself(self, state: State) -> bool:
        """Return True if ticks alone can change the state, without any request."""
        del state
        return False

    def posterior(self, state: State, levels: Sequence[float]) -> Posterior | None:
        """Return the posterior with quantiles at `levels`; None for a policy without one."""
        del state, levels
        return None

    def about(self, state: State) -> Mapping[str, Any]:
        """Return figures for operators and metrics, as JSON."""
        del state
        return {}


def spec_of(declaration: Endpoint) -> ExperimentSpec:
    """Return the spec of the experiment that an endpoint declares."""
    return ExperimentSpec(
        endpoint=declaration.endpoint,
        experiment=experiment_of(declaration),
        arms=tuple(declaration.arms),
        rewards=declaration.feedback.rewards,
        dedupe_us=int(declaration.deadline * 1e6) + SPARE_US,
    )
