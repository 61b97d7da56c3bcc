"""The interface of monitors: readers of the event logs that do something with the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from broker.messages import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorContext:
    """The parts of the monitors' process that a monitor may use."""

    registry: CollectorRegistry  # of the metrics that the process serves
    max_series: int = 2000  # the largest number of series that one monitor may keep


class EndpointMonitor(Protocol):
    """One monitor's view of the event log of one endpoint. Inherit from it to get the default methods."""

    async def fold(self, records: Sequence[Record], *, counted_before: int) -> int:
        """Read records in log order, and return the number of rows that were new.

        Records at offsets below `counted_before` were counted before a restart: only remember them. The checkpoint
        moves past the records after this method has returned, so after a crash some records come once more. An
        exception ends the process.
        """
        ...

    def rebuild_from(self, end: int) -> int:
        """Return the offset from which a restarted process must read to continue at `end`; by default `end` itself."""
        return end

    def note_gap(self, records: int) -> None:
        """Called when the log dropped this many records before they were read."""


class Monitor(Protocol):
    """A reader of all event logs, with a name, offsets and checkpoints of its own. Inherit from it for the defaults."""

    def follow(self, endpoint: str) -> EndpointMonitor:
        """Return the monitor of one endpoint; called once for each endpoint that appears."""
        ...

    async def close(self) -> None:
        """Called once at the end, after the last record and checkpoint."""
