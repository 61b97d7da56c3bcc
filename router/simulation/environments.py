"""Environments for policies: many runs at once, through the functions that the learner calls.

Requests are numbered from 0. Draws and rewards have generators of their own: with one generator for both, an arm's
reward would depend on the draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from router.policies.counts import Sums, forget
from router.policies.learning import Contextual, JoinedRewards, Learning
from router.policies.thompson import Thompson
from router.stats.arrays import Bools, Floats, Ints, choose

State = TypeVar("State")
Contra = TypeVar("Contra", contravariant=True)


@runtime_checkable
class Sampler(Protocol[Contra]):
    """A policy that can draw arms by sampling, faster than its probabilities can be computed."""

    def sample(self, state: Contra, random: np.random.Generator, draws: int = 1) -> Ints:
        """Return arms (runs, draws)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BernoulliWorld:
    """Bernoulli arms, and the delay and loss of their rewards.

    `means` (phases, arms): the phases divide the requests equally. A snapshot is taken every `every` requests, which is
    also that many ticks. Rewards come `delay` requests later on average (geometric), and the share `lost` never.
    """

    means: Floats
    requests: int
    every: int = 1
    delay: float = 0.0
    lost: float = 0.0

    def at(self, request: int) -> Floats:
        """Return the arms' means (arms,)."""
        row: Floats = self.means[request * len(self.means) // self.requests]
        return row


@dataclass(frozen=True, slots=True)
class _Pending:
    """Delayed rewards, and the request by which each arrives."""

    due: Ints
    seen: JoinedRewards


def regrets(
    policy: Learning[State],
    world: BernoulliWorld,
    runs: int,
    seed: int,
    *,
    at: Iterable[int] = (),
    sampling: bool = False,
) -> Floats:
    """Return the expected regret of each run after each number of requests in `at`, and after all (runs, numbers).

    With `sampling` arms are drawn by the policy's `sample`, without its floor; else from its `weights`.
    """
    drawing, rewarding = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    state, pending = policy.start(runs), _Pending(np.zeros(0, np.int64), _nothing())
    marks = [*sorted(at), world.requests]
    regret, found = np.zeros(runs), []
    for request in range(0, world.requests, world.every):
        draws = min(world.every, world.requests - request)
        arms, propensity = _drawn(policy, state, runs, draws, drawing, sampling=sampling)
        means = world.at(request)
        reward = (rewarding.random(arms.shape) < means[arms]).astype(np.float64)
        regret = regret + (means.max() - means[arms]).sum(axis=-1)
        seen = JoinedRewards(np.repeat(np.arange(runs), draws), arms.ravel(), reward.ravel(), propensity.ravel())
        arrived, pending = _joined(pending, seen, request, world, rewarding)
        state = policy.tick(policy.fold(state, arrived), draws)
        while marks and request + draws >= marks[0]:
            found.append(regret)
            marks.pop(0)
    return np.stack(found, axis=-1)


def _nothing() -> JoinedRewards:
    return JoinedRewards(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


def _drawn(
    policy: Learning[State], state: State, runs: int, draws: int, random: np.random.Generator, *, sampling: bool
) -> tuple[Ints, Floats]:
    """Return arms and propensities (runs, draws); sampled arms have none."""
    if sampling:
        if not isinstance(policy, Sampler):
            raise TypeError(f"{policy.name} cannot sample")
        arms = policy.sample(state, random, draws)
        return arms, np.ones(arms.shape)
    weights = policy.weights(state)
    arms = choose(weights, random.random((runs, draws)))
    return arms, np.take_along_axis(weights, arms, axis=-1)


def _joined(
    pending: _Pending, seen: JoinedRewards, request: int, world: BernoulliWorld, random: np.random.Generator
) -> tuple[JoinedRewards, _Pending]:
    """Return the rewards that have arrived, and those that are still delayed."""
    if world.lost:
        seen = _only(seen, random.random(len(seen.run)) >= world.lost)
    if not world.delay:
        return seen, pending
    due = np.concatenate([pending.due, request + random.geometric(1.0 / world.delay, len(seen.run))])
    both = JoinedRewards(*(np.concatenate(pair) for pair in zip(_parts(pending.seen), _parts(seen), strict=True)))
    there = due <= request
    return _only(both, there), _Pending(due[~there], _only(both, ~there))


def _parts(seen: JoinedRewards) -> tuple[Ints, Ints, Floats, Floats]:
    return seen.run, seen.arm, seen.reward, seen.propensity


def _only(seen: JoinedRewards, kept: Bools) -> JoinedRewards:
    return JoinedRewards(seen.run[kept], seen.arm[kept], seen.reward[kept], seen.propensity[kept])


def replaced_items(
    policy: Thompson, requests: int, runs: int, seed: int, *, every: int = 1, chance: float = 1e-3
) -> Floats:
    """Return the regret (runs,) where items come and go (Chapelle and Li 2011, table 1).

    At each request an item is replaced with probability `chance`; the mean of a new item is Beta(4, 4), and the policy
    knows nothing of it. Feedback comes every `every` requests; delayed rewards of a replaced item are dropped.
    """
    drawing, world = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    rows, regret = np.arange(runs), np.zeros(runs)
    means, state = world.beta(4.0, 4.0, (runs, policy.arms)), policy.start(runs)
    waiting: list[JoinedRewards] = []
    for request in range(1, requests + 1):
        arm = policy.sample(state, drawing)[:, 0]
        chosen = means[rows, arm]
        regret += means.max(axis=-1) - chosen
        waiting.append(JoinedRewards(rows, arm, (world.random(runs) < chosen).astype(np.float64), chosen))
        gone = np.nonzero(world.random(runs) < chance)[0]
        if len(gone):
            item = world.integers(policy.arms, size=len(gone))
            means[gone, item] = world.beta(4.0, 4.0, len(gone))
            state = forget(state, gone, item)
            waiting = [_without(seen, gone, item, runs) for seen in waiting]
        if request % every == 0:
            state, waiting = _fold_all(policy, state, waiting), []
    return regret


def _without(seen: JoinedRewards, run: Ints, arm: Ints, runs: int) -> JoinedRewards:
    """Return `seen` without the rewards of some runs' arms."""
    gone = np.full(runs, -1)
    gone[run] = arm
    return _only(seen, seen.arm != gone[seen.run])


def _fold_all(policy: Thompson, state: Sums, waiting: list[JoinedRewards]) -> Sums:
    if len(waiting) == 1:
        return policy.fold(state, waiting[0])
    columns = zip(*(_parts(seen) for seen in waiting), strict=True)
    return policy.fold(state, JoinedRewards(*(np.concatenate(column) for column in columns)))


def accuracies(policy: Contextual[State], features: Floats, labels: Ints, runs: int, seed: int) -> Floats:
    """Return the share of right answers (runs,) while learning to classify: arm = class, reward 1 for the right one.

    Each run sees all of `features` (examples, dimensions), with `labels` (examples,), once and in an order of its own.
    """
    shuffling, drawing = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    order = np.stack([shuffling.permutation(len(labels)) for _ in range(runs)])
    rows, state, right = np.arange(runs), policy.start(runs), np.zeros(runs)
    for example in order.T:
        x = features[example]
        weights = policy.weights(state, x)
        arm = choose(weights, drawing.random((runs, 1)))[:, 0]
        reward = (arm == labels[example]).astype(np.float64)
        right += reward
        state = policy.fold(state, JoinedRewards(rows, arm, reward, weights[rows, arm]), x)
    return right / len(labels)
