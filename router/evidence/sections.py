"""The parts of a report, for a terminal, a page or a program: tables, and curves over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns. `alarm`: an operator has to act."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
    alarm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Steps over time, one curve a name: `values[i]` are those of all names from `at_us[i]` on, until `until_us`."""

    key: str
    title: str
    names: tuple[str, ...]
    at_us: Sequence[int]
    values: Sequence[Sequence[float]]
    until_us: int
    notes: Sequence[str] = field(default=())


Section = Table | Curves


def sampled(curves: Curves, name: int, points: int) -> list[float]:
    """Return the values of a curve at `points` times of equal distance."""
    begin, span = curves.at_us[0], max(1, curves.until_us - curves.at_us[0])
    found, at = [], 0
    for point in range(points):
        now = begin + span * (point + 0.5) / points
        while at + 1 < len(curves.at_us) and curves.at_us[at + 1] <= now:
            at += 1
        found.append(curves.values[at][name])
    return found


def as_text(cell: Cell) -> str:
    """Return a cell as text for people."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def as_json(sections: Sequence[Section]) -> dict[str, Any]:
    """Return sections as JSON for programs: by key, with rows as objects."""
    return {section.key: _table(section) if isinstance(section, Table) else _curves(section) for section in sections}


def _table(table: Table) -> dict[str, Any]:
    rows = [{name: _plain(cell) for name, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    return {"rows": rows, "notes": list(table.notes), "alarm": table.alarm}


def _curves(curves: Curves) -> dict[str, Any]:
    rows = [
        {"at_us": at_us, **dict(zip(curves.names, map(_plain, values), strict=True))}
        for at_us, values in zip(curves.at_us, curves.values, strict=True)
    ]
    return {"rows": rows, "notes": list(curves.notes), "until_us": curves.until_us}


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
