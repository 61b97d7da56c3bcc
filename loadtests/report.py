"""Reports the figures of a benchmark: a table on the terminal, and one JSON object in a file."""

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
    """The machine and the library versions of a measurement."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def report(title: str, rows: Sequence[tuple[str, str]], figures: Mapping[str, Any], path: Path | None) -> None:
    """Print the rows as a table, and write the figures as JSON if a path is given."""
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    if path is not None:
        path.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n", "utf-8")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that is not exceeded by `share` of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
