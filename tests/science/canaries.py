"""Canaries: how often a harmless one is aborted, and how soon a harmful one; also alarms of sample ratios."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from router.policies.canary import BadEvents, Canary, CanaryPhase
from router.simulation.canary import CanaryRuns, EventRates, paired, staged
from router.stats.arrays import Bools, Floats, Ints
from router.stats.eprocess import PairTest
from router.stats.sample_ratio import ALARM, log_wealth
from tests.science.gates import Row, median, rate

ALPHA = 0.05
RUNS = 4000
NEVER = 10**12


def at_one_share(share: float) -> Canary:
    """A canary that stays at one step and is never promoted."""
    return Canary(canary=1, stable=(1.0, 0.0), steps=(share,), hold_ticks=NEVER, timeout_ticks=NEVER)


def in_stages(max_ratio: float = 1.5) -> Canary:
    """The canary of the table, with steps of 1, 5, 25 and 50 %, each for 10,000 requests."""
    rails = (BadEvents(max_ratio),)
    return Canary(
        canary=1, stable=(1.0, 0.0), hold_requests=0, hold_ticks=10_000, timeout_ticks=NEVER, guardrails=rails
    )


def ended(ended: CanaryRuns, phase: CanaryPhase) -> Floats:
    """1 for each run that ended in the phase, else 0."""
    happened: Floats = (ended.phase == phase).astype(np.float64)
    return happened


def events() -> Iterator[Row]:
    """Bad events with a constant share of the canary, tested after every bad event."""
    for base, share, known in ((0.01, 0.05, ".036"), (0.2, 0.5, ".045")):
        found = staged(at_one_share(share), EventRates(base=base), RUNS, 100_000, 1)
        yield rate(f"A/A {base:.0%} bad at {share:.0%}: abort", ended(found, CanaryPhase.ABORTED), ALPHA, known)
    for share, limit, known in ((0.05, 1000.0, "855"), (0.5, None, "1818")):
        found = staged(at_one_share(share), EventRates(base=0.01, ratio=2.0), 2000, 100_000, 2)
        yield median(f"2x of 1 % at {share:.0%}: canary requests to abort", _to_abort(found), limit, known)


def _to_abort(found: CanaryRuns) -> Floats:
    requests: Floats = found.canary_requests[found.phase == CanaryPhase.ABORTED].astype(np.float64)
    return requests


def stages() -> Iterator[Row]:
    """Steps, then promotion after the proof of less than 1.5 times the bad events."""
    for drift, known in ((0.0, ".035"), (0.8, ".031")):
        found = staged(in_stages(), EventRates(base=0.01, drift=drift), RUNS, 400_000, 3)
        yield rate(f"staged A/A, drift {drift:.0%}: abort", ended(found, CanaryPhase.ABORTED), ALPHA, known)
        yield rate(f"staged A/A, drift {drift:.0%}: promote", ended(found, CanaryPhase.PROMOTED), None, "0.965")
        promoted = found.requests[found.phase == CanaryPhase.PROMOTED].astype(np.float64)
        yield median(f"staged A/A, drift {drift:.0%}: requests to promote", promoted, None, "34-37 k, no last hold")
    yield from _harmful(1.25, RUNS // 4, None, None, ".58 abort", "13 k")
    yield from _harmful(1.5, RUNS, None, ALPHA, ".014 promote", "4.2 k")
    for ratio, limit, known in ((2.0, 1000.0, "848"), (3.0, None, "230"), (5.0, 120.0, "81")):
        yield from _harmful(ratio, RUNS // 2, limit, ALPHA, "0 promote", known)
    tight = {ratio: staged(in_stages(1.2), EventRates(base=0.1, ratio=ratio), RUNS, 100_000, 4) for ratio in (1.0, 1.2)}
    yield rate("staged 10 % bad, margin 1.2, A/A: abort", ended(tight[1.0], CanaryPhase.ABORTED), ALPHA, ".036")
    yield rate("staged 10 % bad, ratio = margin 1.2: promote", ended(tight[1.2], CanaryPhase.PROMOTED), ALPHA, ".006")


def _harmful(
    ratio: float, runs: int, limit: float | None, alpha: float | None, known: str, known_requests: str
) -> Iterator[Row]:
    found = staged(in_stages(), EventRates(base=0.01, ratio=ratio), runs, 400_000, 5)
    if alpha is None:
        yield rate(f"staged {ratio:g}x: abort", ended(found, CanaryPhase.ABORTED), None, known)
    else:
        yield rate(f"staged {ratio:g}x: promote", ended(found, CanaryPhase.PROMOTED), alpha, known)
    yield median(f"staged {ratio:g}x: canary requests to abort", _to_abort(found), limit, known_requests)


def bounded() -> Iterator[Row]:
    """Rewards in [0, 1] around 0.7, tested after every reward."""
    for share, drift in ((0.05, 0.0), (0.5, 0.0), (0.05, 0.2)):
        found = paired(PairTest(), (0.7, 0.7), share, 1000, 10_000, 6, drift=drift)
        yield rate(f"rewards A/A at {share:.0%}, drift {drift:g}: abort", _at_all(found), ALPHA, ".022-.037")
    for drop, share, known in ((0.05, 0.05, 166), (0.05, 0.5, 342), (0.02, 0.05, 618), (0.02, 0.5, 1860)):
        found = paired(PairTest(), (0.7, 0.7 - drop), share, 200, 60_000, 7)
        requests = np.where(found < 0, math.inf, found.astype(np.float64))
        yield median(f"a drop of {drop:g} at {share:.0%}: canary requests", requests, 1.1 * known, f"{known}")
    found = paired(PairTest(0.02), (0.7, 0.68), 0.5, 1000, 10_000, 8)
    yield rate("a drop that is the margin: proof", _at_all(found), ALPHA, "")


def _at_all(found: Ints) -> Floats:
    happened: Floats = (found >= 0).astype(np.float64)
    return happened


def sticky() -> Iterator[Row]:
    """5,000 users who keep their arm, some of whom fail far more often than others: 1e5 requests, 1 % of them bad."""
    for first_only, known in ((True, ".02-.035"), (False, ".13-.19: why only the first counts")):
        found = _sticky(1000, first_only=first_only).astype(np.float64)
        name = "the first bad event of a key" if first_only else "every bad event of a key"
        yield rate(f"sticky A/A at 5 %, {name}: abort", found, ALPHA if first_only else None, known)


def _sticky(runs: int, *, first_only: bool) -> Bools:
    """True for each run in which the canary was aborted within 1,000 bad events."""
    random = np.random.default_rng(9)
    policy, rows = at_one_share(0.05), np.arange(runs)
    state = policy.start(runs)
    sums = np.cumsum(random.gamma(0.05, size=5000))
    assigned = random.random((runs, 5000)) < 0.05
    known = np.zeros((runs, 5000), np.bool_)
    for _ in range(1000):
        key = np.searchsorted(sums, random.random(runs) * sums[-1])
        counted = ~known[rows, key] if first_only else None
        known[rows, key] = True
        state = policy.fold_bad(state, 0, rows, assigned[rows, key], np.full(runs, 0.05), counted)
    aborted: Bools = state.phase == CanaryPhase.ABORTED
    return aborted


def ratios() -> Iterator[Row]:
    """Sample ratios with one false alarm in 1,000: 4,000 experiments, 1,000 tests each, one every 100 requests."""
    random = np.random.default_rng(10)
    for share, alpha, known in ((0.5, 1 / ALARM, "0-.001"), (0.52, None, "10-15 k"), (0.55, None, "1.8-4.6 k")):
        first = np.cumsum(random.binomial(100, share, (1000, 4000 if alpha else 1000)), axis=0)
        alarm = np.full(first.shape[1], math.inf)
        for look, row in enumerate(first, 1):
            wealth = log_wealth(np.stack([row, 100 * look - row], axis=-1), np.array([0.5, 0.5]))
            alarm = np.minimum(alarm, np.where(wealth >= math.log(ALARM), 100.0 * look, math.inf))
        if alpha:
            yield rate("50/50: a false alarm of the sample ratio", np.isfinite(alarm).astype(np.float64), alpha, known)
        else:
            yield median(f"{share:.0%} for 50 %: requests to the alarm", alarm, 15_000.0, known)
