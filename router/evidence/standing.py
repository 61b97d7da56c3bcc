"""Where an experiment stands: what its weights follow from, in the words of its declaration. Needs no numbers library.

`about` is what a snapshot says of itself, see each experiment's `about`; what is missing there is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from broker.records.endpoint import Endpoint
from broker.support.strict import duration
from router.declaration.bandit import BanditConfig
from router.declaration.canary import BadGuardrail, CanaryConfig, Guardrail
from router.declaration.plain import InterleaveConfig
from router.declaration.policy import read_config
from router.evidence.sections import Cell, Section, Table

E_COUNTED = 1e6


def standing(endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
    """Return the tables of what is known, for the policy that an endpoint declares."""
    config = read_config(endpoint)
    if isinstance(config, CanaryConfig):
        return _canary(config, endpoint, about)
    if isinstance(config, InterleaveConfig):
        return _interleaving(config, about)
    if isinstance(config, BanditConfig):
        return _bandit(endpoint, config, about)
    return []


def guardrail_name(rail: Guardrail) -> str:
    """Return what a guardrail watches, as the declaration says it."""
    if not isinstance(rail, BadGuardrail):
        return rail.reward
    return rail.bad if rail.over is None else f"{rail.bad}, over {duration(rail.over)}"


def e_value(log_e: float) -> str:
    """Return a test's wealth."""
    if not math.isfinite(log_e):
        return "-"
    return f"{math.exp(log_e):.3g}" if log_e <= math.log(E_COUNTED) else f"10^{log_e / math.log(10.0):.0f}"


def _bandit(endpoint: Endpoint, config: BanditConfig, about: Mapping[str, Any]) -> list[Section]:
    pulls, means, rewarded = (_list(about, name) for name in ("pulls", "means", "rewarded"))
    title = "What it has learnt"
    if pulls:
        rows: list[Sequence[Cell]] = [
            (arm, at(pulls, place), at(means, place)) for place, arm in enumerate(endpoint.arms)
        ]
        notes = ["as the policy counts it: older rewards count less with a half-life, and the means are not corrected"]
        columns = ("arm", f"{config.reward} counted", "mean")
        return [Table(key="learnt", title=title, columns=columns, rows=rows, notes=notes)]
    if rewarded:
        sizes: list[Sequence[Cell]] = [(arm, at(rewarded, place)) for place, arm in enumerate(config.arms)]
        return [Table(key="learnt", title=title, columns=("arm", "size of its model"), rows=sizes)]
    return []


def _canary(config: CanaryConfig, endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
    if "harm_log_e" not in about:
        return []
    share = (
        ("share", f"{100 * _number(about.get('share')):g} %"),
        ("requests at this step", _whole(about.get("requests"))),
        ("requests needed at a step", config.hold.canary_requests),
        ("requests in all", _whole(about.get("served"))),
    )
    rails, abort, promote = len(config.guardrails), len(config.guardrails) / config.alpha, 1.0 / config.alpha
    bad, harm, proof = (_list(about, name) for name in ("bad", "harm_log_e", "proof_log_e"))
    tripped = about.get("tripped")
    rows: list[Sequence[Cell]] = [
        (
            guardrail_name(rail),
            None if not isinstance(rail, BadGuardrail) else _whole(at(bad, place)),
            e_value(_number(at(harm, place))),
            f"{abort:g}",
            e_value(_number(at(proof, place))),
            f"{promote:g}",
            "aborted it" if tripped == place else "",
        )
        for place, rail in enumerate(config.guardrails)
    ]
    notes = [
        f"aborted when the E-value of harm reaches {abort:g} ({rails} / alpha) for any; promoted after the last step "
        f"when that of the proof reaches {promote:g} (1 / alpha) for all"
    ]
    columns = ("guardrail", "bad events", "E of harm", "aborts at", "E of the proof", "promotes at", "")
    return [
        Table(key="canary", title=f"The canary, {config.canary}", columns=("what", "now"), rows=share),
        Table(key="guardrails", title="Its guardrails", columns=columns, rows=rows, notes=notes),
        *(_bandit(endpoint, config.stable, about) if isinstance(config.stable, BanditConfig) else []),
    ]


def _interleaving(config: InterleaveConfig, about: Mapping[str, Any]) -> list[Section]:
    pairs = _list(about, "pairs")
    if not pairs:
        return []
    difference, low, high, log_e = (_list(about, name) for name in ("difference", "low", "high", "log_e"))
    rows: list[Sequence[Cell]] = [
        (
            f"{config.interleave[first]} - {config.interleave[second]}",
            at(difference, place),
            at(low, place),
            at(high, place),
            e_value(_number(at(log_e, place))),
            f"{len(pairs) / config.stop.alpha:g}",
        )
        for place, (first, second) in enumerate(pairs)
    ]
    columns = ("pair", "difference of credit", "low", "high", "E", "proven at")
    notes = [f"{_whole(about.get('votes'))} votes; the limits hold at every look, for all pairs at once"]
    return [Table(key="preference", title="Preference", columns=columns, rows=rows, notes=notes)]


def at(values: Sequence[Any], place: int) -> Any:
    """Return a value that may not be there."""
    return values[place] if place < len(values) else None


def _list(about: Mapping[str, Any], name: str) -> list[Any]:
    found = about.get(name)
    return list(found) if isinstance(found, (list, tuple)) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
