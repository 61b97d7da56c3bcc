"""The table of monitors. All of them run, each with its own offsets and checkpoints.

A new monitor is one module with a class that makes a `Monitor` out of a `MonitorContext`, and one line in `BUILT_IN`. A
monitor of another package is an entry point of the group `millrace.monitors` that names the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from broker.channels import check_name
from broker.errors import Misconfigured
from monitors.base import Monitor, MonitorContext

GROUP: Final = "millrace.monitors"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorEntry:
    """One monitor: the path of its class, and the folder for its checkpoints, below that of all monitors."""

    path: str  # "module:class"
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMonitor:
    """A monitor with its name and the folder of its checkpoints."""

    name: str
    folder: Path
    monitor: Monitor

    def checkpoint(self, endpoint: str) -> Path:
        """The file with the offset of this monitor in the event log of an endpoint."""
        return self.folder / f"{endpoint}.json"


BUILT_IN: Final[Mapping[str, MonitorEntry]] = {
    "prometheus": MonitorEntry(path="monitors.prometheus:PrometheusMonitor", folder=""),
}


def make_monitors(context: MonitorContext, folder: Path, names: Sequence[str] | None = None) -> list[NamedMonitor]:
    """Make the monitors with these names, or all that are built in or installed.

    `folder` is that of all checkpoints. Raises `Misconfigured` for an unknown name and for a class that does not load.
    """
    entries = {**installed_monitors(), **BUILT_IN}
    chosen = list(entries) if names is None else names
    if unknown := [name for name in chosen if name not in entries]:
        raise Misconfigured(f"monitor {unknown[0]!r} is unknown: it must be one of {', '.join(sorted(entries))}")
    return [
        NamedMonitor(
            name=name,
            folder=folder / entries[name].folder,
            monitor=_make(check_name("monitor", name), entries[name].path, context),
        )
        for name in chosen
    ]


@cache
def installed_monitors() -> Mapping[str, MonitorEntry]:
    """The monitors of other installed packages, by name; each has a folder of its own name."""
    return {point.name: MonitorEntry(path=point.value, folder=point.name) for point in entry_points(group=GROUP)}


def _make(name: str, path: str, context: MonitorContext) -> Monitor:
    module, _, attribute = path.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise Misconfigured(f"monitor {name}: {path} cannot be imported: {exc}") from exc
    monitor: Monitor = factory(context)
    return monitor
