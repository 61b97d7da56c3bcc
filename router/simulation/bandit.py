"""A bandit in artificial traffic: many runs at once, one snapshot at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from router.policies.learning import JoinedRewards, Learning
from router.stats.arrays import Bools, Floats, Ints, choose

State = TypeVar("State")

BEST_HAS = 0.8


class Uniform(Protocol):
    """A source of numbers in [0, 1): a numpy generator."""

    def random(self, size: tuple[int, ...]) -> Floats:
        """Return an array of numbers with a shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bernoulli arms with `means` (arms,), and `steps` snapshots with `every` requests and `ticks` seconds each.

    Rewards count `wait` snapshots later, after their horizon.
    """

    means: Floats
    steps: int
    every: int
    ticks: int = 1
    wait: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedCourse:
    """The course of runs: mean weights (steps, arms), and regret in rewards (runs,).

    `settled` is the step from which on the best arm had 80 % (runs,); -1 for runs in which it never had.
    """

    weights: Floats
    regret: Floats
    settled: Ints


@dataclass(frozen=True, slots=True)
class _Held:
    """Requests whose horizon is open; in small types, because there are many."""

    arms: npt.NDArray[np.int8]
    liked: Bools
    weights: Floats


def walk(
    policy: Learning[State], traffic: Traffic, runs: int, drawing: Uniform, rewarding: Uniform
) -> Iterator[Floats]:
    """Yield the weights (runs, arms) of each snapshot. Draws and rewards have sources of their own."""
    state, held = policy.start(runs), deque[_Held]()
    weighed, weights = None, np.zeros(0)
    for _ in range(traffic.steps):
        if state is not weighed:  # unchanged since
            weighed, weights = state, policy.weights(state)
        yield weights
        arms = choose(weights, drawing.random((runs, traffic.every)))
        liked = rewarding.random((runs, traffic.every)) < traffic.means[arms]
        held.append(_Held(arms.astype(np.int8), liked, weights))
        if len(held) > traffic.wait:
            state = policy.fold(state, _seen(held.popleft()))
        state = policy.tick(state, traffic.ticks)


def course(policy: Learning[State], traffic: Traffic, runs: int, seed: int) -> SimulatedCourse:
    """Return the course of a number of runs of a policy."""
    drawing, rewarding = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    best, gap = int(traffic.means.argmax()), traffic.means.max() - traffic.means
    means, regret, settled = [], np.zeros(runs), np.full(runs, -1)
    for step, weights in enumerate(walk(policy, traffic, runs, drawing, rewarding)):
        means.append(weights.mean(axis=0))
        regret = regret + traffic.every * (weights * gap).sum(axis=-1)
        has_most = weights[:, best] >= BEST_HAS
        settled = np.where(has_most & (settled < 0), step, np.where(has_most, settled, -1))
    return SimulatedCourse(np.array(means), regret, settled)


def _seen(held: _Held) -> JoinedRewards:
    runs, draws = held.arms.shape
    arms = held.arms.astype(np.int64)
    propensity = np.take_along_axis(held.weights, arms, axis=-1)
    return JoinedRewards(
        np.repeat(np.arange(runs), draws), arms.ravel(), held.liked.ravel().astype(float), propensity.ravel()
    )
