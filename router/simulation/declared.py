"""What a declared policy would do with given traffic: its simulation, as the sections of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from router.declaration.bandit import BanditConfig
from router.declaration.canary import BadGuardrail, CanaryConfig
from router.declaration.plain import InterleaveConfig
from router.declaration.policy import read_config, stable_arms, ticks
from router.evidence.sections import Cell, Curves, Section, Table
from router.evidence.standing import guardrail_name
from router.policies.build import canary_of, learning_of
from router.policies.canary import CanaryPhase
from router.simulation.bandit import BEST_HAS, Traffic, course
from router.simulation.canary import EventRates, staged
from router.simulation.clicks import ClickWorld, lists_until_proven
from router.stats.arrays import Floats

DRAWS_LIMIT = 1_000_000_000
LISTS_LIMIT = 100_000
TWO_HOURS_S = 7200.0
MOST_STEPS = 200  # snapshots: their probabilities are what takes time


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSpec:
    """What is to be tried: requests a second, seconds (0: what suits the policy), and each arm's number by its kind."""

    rate: float
    for_s: float
    runs: int
    seed: int
    means: Mapping[str, float]
    failures: Mapping[str, float]
    noise: Mapping[str, float]


def simulated(endpoint: Endpoint, wish: SimulationSpec) -> list[Section]:
    """Return what the policy would do. Raises Misconfigured for what cannot be tried, or is not said."""
    config = read_config(endpoint)
    if isinstance(config, BanditConfig):
        return _bandit(endpoint, config, wish)
    if isinstance(config, CanaryConfig):
        return _canary(endpoint, config, wish)
    if isinstance(config, InterleaveConfig):
        return _interleaving(endpoint, config, wish)
    raise Misconfigured(f"endpoint {endpoint.endpoint}: its policy learns nothing: there is nothing to simulate")


def _bandit(endpoint: Endpoint, config: BanditConfig, wish: SimulationSpec) -> list[Section]:
    reward = endpoint.feedback.rewards[config.reward]
    if config.dimensions:
        raise Misconfigured(f"{config.bandit} looks at features, which nobody knows before: see millrace route replay")
    if reward.type == "real":
        raise Misconfigured(f"{config.reward} is a real reward; what is simulated is 0 or 1: see millrace route replay")
    means = np.array(_numbers("--means", config.arms, wish.means))
    seconds = wish.for_s or TWO_HOURS_S
    traffic = _traffic(means, seconds, wish.rate, config.refresh, reward.horizon)
    if traffic.steps * traffic.every * wish.runs > DRAWS_LIMIT:
        asked = f"{wish.runs} runs of {seconds * wish.rate:.0f} requests"
        raise Misconfigured(f"{asked} take too long: say fewer --runs, or a shorter --for")
    learning: Any = learning_of(config, len(config.arms), reward)
    found = course(learning, traffic, wish.runs, wish.seed)
    step_us = round(1e6 * seconds / traffic.steps)
    curves = Curves(
        key="weights",
        title="Weights over time, mean of all runs",
        names=config.arms,
        at_us=[step * step_us for step in range(traffic.steps)],
        values=[tuple(map(float, weights)) for weights in found.weights],
        until_us=traffic.steps * step_us,
    )
    best = config.arms[int(means.argmax())]
    reached = found.settled[found.settled >= 0] * seconds / traffic.steps
    requests = traffic.steps * traffic.every
    rows: list[Sequence[Cell]] = [
        ("requests a run", requests),
        (f"runs in which {best} has {BEST_HAS:.0%} at the end", _percent(len(reached) / wish.runs)),
        ("until it has them, median of these, s", float(np.median(reached)) if len(reached) else None),
        (f"{config.reward} lost to exploring, mean", float(found.regret.mean())),
        ("the same, worst run in twenty", float(np.quantile(found.regret, 0.95))),
        ("the same with equal shares for ever", float(requests * (means.max() - means.mean()))),
    ]
    step_s = seconds / traffic.steps
    coarse = (
        [f"with a snapshot every {step_s:.0f} s, not every {config.refresh:g} s"] if step_s > config.refresh else []
    )
    return [Table(key="bandit", title=config.bandit, columns=("what", "value"), rows=rows, notes=coarse), curves]


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


def _canary(endpoint: Endpoint, config: CanaryConfig, wish: SimulationSpec) -> list[Section]:
    watched = [place for place, rail in enumerate(config.guardrails) if isinstance(rail, BadGuardrail)]
    if not watched:
        raise Misconfigured("only guardrails on bad events can be simulated, and this canary has none")
    stable = [*stable_arms(config)]
    *base, worse = _numbers("--failures", [*stable, config.canary], wish.failures)
    rate = sum(base) / len(base)
    if not 0.0 < rate < 1.0 or not 0.0 < worse < 1.0:
        raise Misconfigured("--failures: shares between 0 and 100 % are expected, such as v1=1%,v3=2%")
    declared = canary_of(config, endpoint)
    canary = replace(
        declared,
        guardrails=(declared.guardrails[watched[0]],),
        hold_ticks=_in_requests(config.hold.time, wish.rate),
        timeout_ticks=_in_requests(config.timeout, wish.rate),
    )
    requests = _in_requests(wish.for_s or config.timeout, wish.rate)
    ended = staged(canary, EventRates(base=rate, ratio=worse / rate), wish.runs, requests, wish.seed)
    words = {
        CanaryPhase.PROMOTED: "promoted",
        CanaryPhase.ABORTED: "aborted: harm was shown",
        CanaryPhase.TIMED_OUT: "timed out",
        CanaryPhase.STARVED: "rolled back without requests",
        CanaryPhase.RUNNING: "still running",
    }
    rows: list[Sequence[Cell]] = []
    for phase, said in words.items():
        mine = ended.phase == phase
        if mine.any():
            middle = [float(np.median(column[mine])) for column in (ended.canary_requests, ended.requests / wish.rate)]
            error = math.sqrt(mine.mean() * (1.0 - mine.mean()) / wish.runs)
            rows.append((said, _percent(float(mine.mean())), f"±{100 * error:.1f} %", *middle))
    columns = ("end", "of the runs", "standard error", "canary requests, median", "after s, median")
    name = guardrail_name(config.guardrails[watched[0]])
    others = [guardrail_name(rail) for place, rail in enumerate(config.guardrails) if place != watched[0]]
    notes = [f"{name}: {_percent(rate)} of the stable requests, {_percent(worse)} of those of {config.canary}"]
    if others:
        left_out = f"left out: the guardrails {'; '.join(others)}"
        notes.append(f"{left_out}: with several, each needs more proof to abort, and all have to be proven")
    return [Table(key="canary", title=f"The canary, {config.canary}", columns=columns, rows=rows, notes=notes)]


def _interleaving(endpoint: Endpoint, config: InterleaveConfig, wish: SimulationSpec) -> list[Section]:
    if len(config.interleave) != 2:
        raise Misconfigured(f"two rankers can be simulated, and there are {len(config.interleave)}")
    noise = _numbers("--noise", config.interleave, wish.noise)
    world = ClickWorld(noise=(noise[0], noise[1]), length=config.length, items=2 * config.length)
    lists = min(LISTS_LIMIT, _in_requests(wish.for_s or TWO_HOURS_S, wish.rate))
    found = lists_until_proven(world, config.method, config.stop.alpha, wish.runs, lists, wish.seed)
    proven = found[found > 0]
    rows: list[Sequence[Cell]] = [
        ("lists tried", lists),
        ("runs in which a ranker was proven better", _percent(len(proven) / wish.runs)),
        ("lists until then, median", float(np.median(proven)) if len(proven) else None),
        ("the same, nine runs in ten", float(np.quantile(proven, 0.9)) if len(proven) else None),
        ("seconds until then, median", float(np.median(proven)) / wish.rate if len(proven) else None),
    ]
    notes = ["users look from the top and leave with their first click; a ranker's noise blurs how good items are"]
    return [Table(key="interleave", title="Interleaving", columns=("what", "value"), rows=rows, notes=notes)]


def _numbers(option: str, arms: Sequence[str], said: Mapping[str, float]) -> list[float]:
    """Return each arm's number; raises Misconfigured naming what is missing."""
    if unknown := [arm for arm in said if arm not in arms]:
        raise Misconfigured(f"{option}: {unknown[0]!r} is not an arm that is tried; there is: {', '.join(arms)}")
    if missing := [arm for arm in arms if arm not in said]:
        example = ",".join(f"{arm}={0.1 + 0.02 * place:.2f}" for place, arm in enumerate(arms))
        raise Misconfigured(f"{option}: nothing is said for {', '.join(missing)}: write it as {option} {example}")
    return [said[arm] for arm in arms]


def _in_requests(seconds: float, rate: float) -> int:
    return max(1, round(seconds * rate))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
