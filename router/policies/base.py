"""What a policy is to the router, and what one that learns is to the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import Floats, Ints

State = TypeVar("State")


class Policy(Protocol):
    """Says how probable each arm is; the router draws, so that the propensity is exact."""

    @property
    def name(self) -> str:
        """The word that rows carry."""

    @property
    def sticky(self) -> bool:
        """Whether the same key is to get the same arm."""

    def first(self) -> WeightSnapshot:
        """Return snapshot 0: a pure function of the declaration."""


@dataclass(frozen=True, slots=True)
class JoinedRewards:
    """Rewards that have joined their decisions: flat arrays of one length, each event with the run it belongs to.

    Rewards are finite. A propensity is the logged one, of the decision, never today's; it is above 0, for a pinned
    request (propensity 0) is not credited. The learner has one run: see `one_run`.
    """

    run: Ints
    arm: Ints
    reward: Floats
    propensity: Floats


def one_run(arm: Sequence[int], reward: Sequence[float], propensity: Sequence[float]) -> JoinedRewards:
    """Return what one learner has seen."""
    arms = np.asarray(arm, np.int64)
    return JoinedRewards(np.zeros_like(arms), arms, np.asarray(reward, np.float64), np.asarray(propensity, np.float64))


class Learning(Policy, Protocol[State]):
    """A policy whose probabilities follow from rewards: a pure fold. `State` holds arrays (runs, arms)."""

    def start(self, runs: int) -> State:
        """Return what is known before the first reward."""

    def fold(self, state: State, seen: JoinedRewards) -> State:
        """Return the state after some rewards; in any order and in any batches it is the same, byte for byte."""

    def tick(self, state: State, ticks: int = 1) -> State:
        """Return the state after `ticks` of the log's clock: older rewards count less, if a half-life is declared."""

    def weights(self, state: State) -> Floats:
        """Return the probability of each arm (runs, arms); rows sum to 1, and none is below the floor."""


class Contextual(Policy, Protocol[State]):
    """A policy that looks at a request's features, too. Its fold keeps the order of events within a run."""

    def start(self, runs: int) -> State:
        """Return what is known before the first reward."""

    def fold(self, state: State, seen: JoinedRewards, features: Floats) -> State:
        """Return the state after some rewards; `features` (events, dimensions) are those of the decisions."""

    def weights(self, state: State, features: Floats) -> Floats:
        """Return the probability of each arm (runs, arms) for one request a run, `features` (runs, dimensions)."""


def check_floor(floor: float, arms: int) -> None:
    """Raise ValueError unless every one of `arms` can have the probability `floor`."""
    if arms < 1 or not 0.0 <= floor * arms <= 1.0:
        raise ValueError(f"floor {floor!r}: {arms} arms can have at most {1 / max(arms, 1):.4g} each")


def floored(probabilities: Floats, floor: float) -> Floats:
    """Return f + (1 - K f) P: every arm keeps `floor`, and the order of the arms stays."""
    mixed: Floats = floor + (1.0 - probabilities.shape[-1] * floor) * probabilities
    return mixed
