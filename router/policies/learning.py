"""The learner's part of a bandit: a fold of rewards into weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from router.policies.snapshot import WeightSnapshot
from router.policies.weigher import Weigher
from router.stats.arrays import Floats, Ints

State = TypeVar("State")
Contra = TypeVar("Contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class JoinedRewards:
    """Rewards that have joined their decisions: flat arrays of one length, each event with the run it belongs to.

    Rewards are finite. A propensity is the one logged at the decision, and above 0: pinned requests are not credited.
    The learner has one run, see `one_run`.
    """

    run: Ints
    arm: Ints
    reward: Floats
    propensity: Floats


def one_run(arm: Sequence[int], reward: Sequence[float], propensity: Sequence[float]) -> JoinedRewards:
    """Return the rewards of a single run."""
    arms = np.asarray(arm, np.int64)
    return JoinedRewards(np.zeros_like(arms), arms, np.asarray(reward, np.float64), np.asarray(propensity, np.float64))


class Learning(Protocol[State]):
    """A bandit: its probabilities follow from rewards, by a pure fold. `State` holds arrays (runs, arms)."""

    @property
    def name(self) -> str:
        """The policy's name in prediction rows."""

    def first(self) -> WeightSnapshot:
        """Return snapshot 0, a pure function of the declaration."""

    def start(self, runs: int) -> State:
        """Return the state before the first reward."""

    def fold(self, state: State, seen: JoinedRewards) -> State:
        """Return the state after some rewards; in any order and in any batches it is the same, byte for byte."""

    def tick(self, state: State, ticks: int = 1) -> State:
        """Return the state after `ticks` of the log's clock: older rewards count less if a half-life is declared."""

    def weights(self, state: State) -> Floats:
        """Return the probability of each arm (runs, arms); rows sum to 1, and none is below the floor."""


@runtime_checkable
class HasPosterior(Protocol[Contra]):
    """A bandit with a posterior of each arm's mean reward."""

    def shares(self, state: Contra) -> Floats:
        """Return the probability of each arm to be the best (runs, arms)."""

    def quantile(self, state: Contra, level: float) -> Floats:
        """Return the quantile of each arm's mean (runs, arms)."""


class Contextual(Protocol[State]):
    """A bandit whose weights depend on a request's features. Its fold keeps the order of events within a run."""

    @property
    def name(self) -> str:
        """The policy's name in prediction rows."""

    def first(self) -> WeightSnapshot:
        """Return snapshot 0, a pure function of the declaration."""

    def start(self, runs: int) -> State:
        """Return the state before the first reward."""

    def fold(self, state: State, seen: JoinedRewards, features: Floats) -> State:
        """Return the state after some rewards; `features` (events, dimensions) are those of the decisions."""

    def weights(self, state: State, features: Floats) -> Floats:
        """Return the probability of each arm (runs, arms) for one request a run, `features` (runs, dimensions)."""

    def weigher(self, models: State) -> Weigher:
        """Return the weigher that routers use, with the first run of `models`: the same weights, faster."""


def check_floor(floor: float, arms: int) -> None:
    """Raise ValueError unless every one of `arms` can have the probability `floor`."""
    if arms < 1 or not 0.0 <= floor * arms <= 1.0:
        raise ValueError(f"floor {floor!r}: {arms} arms can have at most {1 / max(arms, 1):.4g} each")


def floored(probabilities: Floats, floor: float) -> Floats:
    """Return f + (1 - K f) P: every arm keeps `floor`, and the order of the arms stays."""
    mixed: Floats = floor + (1.0 - probabilities.shape[-1] * floor) * probabilities
    return mixed
