"""How a benchmark reports: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

LIBRARIES = ("millrace", "pika", "aiokafka", "apsw", "torch", "uvloop", "numpy")

console = Console()


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def report(title: str, rows: Sequence[tuple[str, str]], figures: Mapping[str, Any], path: Path | None) -> None:
    """Print the table and write the JSON."""
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if path is not None:
        path.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n", "utf-8")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
