"""Canaries in artificial traffic with bad events: many runs at once, tested after every bad event."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router.policies.canary import Canary, CanaryPhase, CanaryState
from router.stats.arrays import Floats, Ints
from router.stats.eprocess import PairTest


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRates:
    """The share of bad events: `base` for the stable arms, `ratio` times that for the canary.

    `drift` is the amplitude of the base rate's oscillation, relative to the rate; one oscillation takes `period`
    requests.
    """

    base: float
    ratio: float = 1.0
    drift: float = 0.0
    period: float = 20_000.0

    def at(self, request: Ints) -> Floats:
        """Return the base rate at each run's own request (runs,)."""
        rate: Floats = self.base * (1.0 + self.drift * np.sin(2.0 * math.pi * request / self.period))
        return rate

    @property
    def most(self) -> float:
        """The highest base rate."""
        return self.base * (1.0 + self.drift)


@dataclass(frozen=True, slots=True)
class CanaryRuns:
    """The end of each run (runs,): its phase, requests to the canary, and requests in all."""

    phase: Ints
    canary_requests: Ints
    requests: Ints


def staged(canary: Canary, rates: EventRates, runs: int, requests: int, seed: int) -> CanaryRuns:
    """Run canaries for at most `requests` each. A tick is a request, and the first guardrail is on bad events.

    Only bad events and ends of steps are visited: the number of requests between two is geometric at the highest rate,
    and an event is kept with the ratio of the present rate to the highest one.
    """
    random = np.random.default_rng(seed)
    state = canary.start(runs)
    served = np.zeros(runs, np.int64)
    while True:
        alive = (state.phase == CanaryPhase.RUNNING) & (state.ticks < requests)
        if not alive.any():
            return CanaryRuns(state.phase, served, state.ticks)
        share = canary.share(state)
        at_most = share * rates.ratio * rates.most + (1.0 - share) * rates.most
        gap = random.geometric(np.where(alive, at_most, 1.0))
        left = _until_the_next_stop(canary, state, requests)
        happens = alive & (gap <= left)
        gap = np.where(alive, np.minimum(gap, left), 0)
        base = rates.at(state.ticks + gap)
        ours = share * rates.ratio * base
        happens &= random.random(runs) * at_most < ours + (1.0 - share) * base
        is_canary = random.random(runs) * (ours + (1.0 - share) * base) < ours
        quiet = random.binomial(np.maximum(gap - happens, 0), share)
        new = quiet + (happens & is_canary)
        served += new
        run = np.nonzero(happens)[0]
        state = canary.fold_requests(state, new)
        state = canary.fold_bad(state, 0, run, is_canary[run], share[run])
        state = canary.tick(state, gap)


def _until_the_next_stop(canary: Canary, state: CanaryState, requests: int) -> Ints:
    """Return how many requests (runs,) may pass before a step or the whole run is over; at least 1."""
    step = state.entered + canary.hold_ticks - state.ticks
    left: Ints = np.minimum(np.where(step > 0, step, requests), requests - state.ticks)
    return np.maximum(left, 1)


def paired(
    test: PairTest, means: tuple[float, float], share: float, runs: int, requests: int, seed: int, *, drift: float = 0.0
) -> Ints:
    """Return the requests to the canary (runs,) until the wealth reached 20, or -1.

    `means` are the stable arms' and the canary's; rewards are Beta with a strength of 10. `drift` is the amplitude of
    both means' oscillation, with a period of 5000 requests.
    """
    random = np.random.default_rng(seed)
    state, rows = test.start(runs), np.arange(runs)
    served, ended = np.zeros(runs, np.int64), np.full(runs, -1)
    for request in range(requests):
        canary = random.random(runs) < share
        swing = drift * math.sin(2.0 * math.pi * request / 5000.0)
        mean = np.where(canary, means[1], means[0]) + swing
        state = test.fold(state, rows, canary, random.beta(10.0 * mean, 10.0 * (1.0 - mean)))
        served += canary
        crossed = (ended < 0) & (test.log_wealth(state) >= math.log(20.0))
        ended[crossed] = served[crossed]
        if (ended >= 0).all():
            break
    return ended
