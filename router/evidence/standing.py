"""Tables of an experiment's state for operators. They need no numerical library.

`about` is the figures of a snapshot (`Experiment.about`); it comes from the network, so any of them may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.evidence.sections import Cell, Section, Table

E_COUNTED = 1e6


def standing(endpoint: Endpoint, about: Mapping[str, Any]) -> list[Section]:
    """Return the tables of the policy that an endpoint declares."""
    config = read_config(endpoint)
    return [] if config is None else config.standing(endpoint, about)


def e_value(log_e: float) -> str:
    """Return a test's wealth as text, from its natural logarithm."""
    if not math.isfinite(log_e):
        return "-"
    return f"{math.exp(log_e):.3g}" if log_e <= math.log(E_COUNTED) else f"10^{log_e / math.log(10.0):.0f}"


def bandit_tables(
    reward: str, arms: Sequence[str], bandit_arms: Sequence[str], about: Mapping[str, Any]
) -> list[Section]:
    """Return the table of a bandit's state: `arms` are the endpoint's, `bandit_arms` those of the bandit."""
    pulls, means, rewarded = (list_in(about, name) for name in ("pulls", "means", "rewarded"))
    title = "Its statistics so far"
    if pulls:
        rows: list[Sequence[Cell]] = [(arm, at(pulls, place), at(means, place)) for place, arm in enumerate(arms)]
        notes = ["as the policy counts it: older rewards count less with a half-life, and the means are not corrected"]
        columns = ("arm", f"{reward} counted", "mean")
        return [Table(key="learnt", title=title, columns=columns, rows=rows, notes=notes)]
    if rewarded:
        sizes: list[Sequence[Cell]] = [(arm, at(rewarded, place)) for place, arm in enumerate(bandit_arms)]
        return [Table(key="learnt", title=title, columns=("arm", "size of its model"), rows=sizes)]
    return []


def at(values: Sequence[Any], place: int) -> Any:
    """Return the value at a place; None if there is none."""
    return values[place] if place < len(values) else None


def list_in(about: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list under a name; empty if there is none."""
    found = about.get(name)
    return list(found) if isinstance(found, (list, tuple)) else []


def number_of(value: Any) -> float:
    """Return a number as a float; not a number for anything else."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def whole_of(value: Any) -> int:
    """Return a number as an integer; 0 for anything else."""
    return int(value) if isinstance(value, (int, float)) else 0
