"""The reports of simulations: how a bandit, a canary or an interleaving would fare in given traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from broker.errors import Misconfigured
from router.declaration.policy import ticks
from router.evidence.sections import Cell, Curves, Section, Table
from router.policies.canary import Canary, CanaryPhase
from router.policies.learning import Learning
from router.simulation.bandit import BEST_HAS, Traffic, course
from router.simulation.canary import EventRates, staged
from router.simulation.clicks import ClickWorld, lists_until_proven
from router.simulation.spec import SimulationSpec
from router.stats.arrays import Floats

DRAWS_LIMIT = 1_000_000_000
LISTS_LIMIT = 100_000
TWO_HOURS_S = 7200.0
MOST_STEPS = 200  # snapshots: computing their probabilities takes most of the time


def simulated_bandit(
    learning: Callable[[], Learning[Any]],
    *,
    bandit: str,
    reward: str,
    arms: Sequence[str],
    refresh_s: float,
    horizon_s: float,
    spec: SimulationSpec,
) -> list[Section]:
    """Return the weights over time, and the rewards that are lost to exploring. Raises Misconfigured.

    `learning` builds the bandit. Snapshots are taken every `refresh_s`, rewards count after `horizon_s`.
    """
    means = np.array(_numbers("--means", arms, spec.means))
    seconds = spec.for_s or TWO_HOURS_S
    traffic = _traffic(means, seconds, spec.rate, refresh_s, horizon_s)
    if traffic.steps * traffic.every * spec.runs > DRAWS_LIMIT:
        asked = f"{spec.runs} runs of {seconds * spec.rate:.0f} requests"
        raise Misconfigured(f"{asked} take too long: use fewer --runs, or a shorter --for")
    found = course(learning(), traffic, spec.runs, spec.seed)
    step_us = round(1e6 * seconds / traffic.steps)
    curves = Curves(
        key="weights",
        title="Weights over time, mean of all runs",
        names=tuple(arms),
        at_us=[step * step_us for step in range(traffic.steps)],
        values=[tuple(map(float, weights)) for weights in found.weights],
        until_us=traffic.steps * step_us,
    )
    best = arms[int(means.argmax())]
    reached = found.settled[found.settled >= 0] * seconds / traffic.steps
    requests = traffic.steps * traffic.every
    rows: list[Sequence[Cell]] = [
        ("requests a run", requests),
        (f"runs in which {best} has {BEST_HAS:.0%} at the end", _percent(len(reached) / spec.runs)),
        ("until it has them, median of these, s", float(np.median(reached)) if len(reached) else None),
        (f"{reward} lost to exploring, mean", float(found.regret.mean())),
        ("the same, worst run in twenty", float(np.quantile(found.regret, 0.95))),
        ("the same with equal shares for ever", float(requests * (means.max() - means.mean()))),
    ]
    step_s = seconds / traffic.steps
    coarse = [f"with a snapshot every {step_s:.0f} s, not every {refresh_s:g} s"] if step_s > refresh_s else []
    return [Table(key="bandit", title=bandit, columns=("what", "value"), rows=rows, notes=coarse), curves]


def _traffic(means: Floats, seconds: float, rate: float, refresh_s: float, horizon_s: float) -> Traffic:
    """Return the traffic with a step a snapshot; longer ones if there is less than a request in each, or many steps."""
    step_s = max(float(ticks(refresh_s)), 1.0 / rate, seconds / MOST_STEPS)
    steps = max(1, round(seconds / step_s))
    return Traffic(
        means=means,
        steps=steps,
        every=max(1, round(rate * step_s)),
        ticks=max(1, round(step_s)),
        wait=math.ceil(horizon_s / step_s),
    )


def simulated_canary(
    declared: Canary,
    *,
    place: int,
    guardrails: Sequence[str],
    canary_arm: str,
    stable_arms: Sequence[str],
    hold_s: float,
    timeout_s: float,
    spec: SimulationSpec,
) -> list[Section]:
    """Return how the runs of a canary end, with the guardrail at `place` alone. Raises Misconfigured.

    `guardrails` are the names of all guardrails of the canary `declared`.
    """
    *base, worse = _numbers("--failures", [*stable_arms, canary_arm], spec.failures)
    rate = sum(base) / len(base)
    if not 0.0 < rate < 1.0 or not 0.0 < worse < 1.0:
        raise Misconfigured("--failures: shares between 0 and 100 % are expected, such as v1=1%,v3=2%")
    canary = replace(
        declared,
        guardrails=(declared.guardrails[place],),
        hold_ticks=_in_requests(hold_s, spec.rate),
        timeout_ticks=_in_requests(timeout_s, spec.rate),
    )
    requests = _in_requests(spec.for_s or timeout_s, spec.rate)
    ended = staged(canary, EventRates(base=rate, ratio=worse / rate), spec.runs, requests, spec.seed)
    words = {
        CanaryPhase.PROMOTED: "promoted",
        CanaryPhase.ABORTED: "aborted: harm was shown",
        CanaryPhase.TIMED_OUT: "timed out",
        CanaryPhase.STARVED: "rolled back without requests",
        CanaryPhase.RUNNING: "still running",
    }
    rows: list[Sequence[Cell]] = []
    for phase, word in words.items():
        mine = ended.phase == phase
        if mine.any():
            middle = [float(np.median(column[mine])) for column in (ended.canary_requests, ended.requests / spec.rate)]
            error = math.sqrt(mine.mean() * (1.0 - mine.mean()) / spec.runs)
            rows.append((word, _percent(float(mine.mean())), f"±{100 * error:.1f} %", *middle))
    columns = ("end", "of the runs", "standard error", "canary requests, median", "after s, median")
    others = [name for other, name in enumerate(guardrails) if other != place]
    shares = f"{_percent(rate)} of the stable requests, {_percent(worse)} of those of {canary_arm}"
    notes = [f"{guardrails[place]}: {shares}"]
    if others:
        left_out = f"left out: the guardrails {'; '.join(others)}"
        notes.append(f"{left_out}: with several, each needs more proof to abort, and all have to be proven")
    return [Table(key="canary", title=f"The canary, {canary_arm}", columns=columns, rows=rows, notes=notes)]


def simulated_interleaving(
    rankers: Sequence[str], method: str, length: int, alpha: float, *, spec: SimulationSpec
) -> list[Section]:
    """Return how many merged lists prove a ranker better at `alpha`. Raises Misconfigured."""
    if len(rankers) != 2:
        raise Misconfigured(f"two rankers can be simulated, and there are {len(rankers)}")
    noise = _numbers("--noise", rankers, spec.noise)
    world = ClickWorld(noise=(noise[0], noise[1]), length=length, items=2 * length)
    lists = min(LISTS_LIMIT, _in_requests(spec.for_s or TWO_HOURS_S, spec.rate))
    found = lists_until_proven(world, method, alpha, spec.runs, lists, spec.seed)
    proven = found[found > 0]
    rows: list[Sequence[Cell]] = [
        ("lists tried", lists),
        ("runs in which a ranker was proven better", _percent(len(proven) / spec.runs)),
        ("lists until then, median", float(np.median(proven)) if len(proven) else None),
        ("the same, nine runs in ten", float(np.quantile(proven, 0.9)) if len(proven) else None),
        ("seconds until then, median", float(np.median(proven)) / spec.rate if len(proven) else None),
    ]
    notes = ["users look from the top and leave with their first click; a ranker's noise blurs how good items are"]
    return [Table(key="interleave", title="Interleaving", columns=("what", "value"), rows=rows, notes=notes)]


def _numbers(option: str, arms: Sequence[str], given: Mapping[str, float]) -> list[float]:
    """Return each arm's number; raises Misconfigured naming the missing ones."""
    if unknown := [arm for arm in given if arm not in arms]:
        raise Misconfigured(f"{option}: {unknown[0]!r} is not an arm that is tried; there is: {', '.join(arms)}")
    if missing := [arm for arm in arms if arm not in given]:
        example = ",".join(f"{arm}={0.1 + 0.02 * place:.2f}" for place, arm in enumerate(arms))
        raise Misconfigured(f"{option}: no value is given for {', '.join(missing)}: write it as {option} {example}")
    return [given[arm] for arm in arms]


def _in_requests(seconds: float, rate: float) -> int:
    return max(1, round(seconds * rate))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
