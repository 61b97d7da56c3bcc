"""The work of a replica since its start, as it announces it: sums that only grow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SIZES_LIMIT = 128  # different batch sizes that are counted
_TIMES = ("success", "fail", "queue", "compute")
_LARGEST = 1 << 62


@dataclass(slots=True)
class Duration:
    """A number of operations, and the sum of their times in microseconds."""

    count: int = 0
    total_us: int = 0

    def add(self, count: int, total_us: int) -> None:
        """Add operations."""
        self.count += count
        self.total_us += total_us


@dataclass(slots=True)
class Statistics:
    """Requests by outcome, with their times; computed rows and batches."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    rows: int = 0
    last_ms: int = 0  # the time of the last batch, in ms since 1970
    batches: dict[int, Duration] = field(default_factory=dict)

    def computed(self, *, requests: int, rows: int, queued_us: int, computing_us: int, at_us: int) -> None:
        """Add a batch; `queued_us` is the sum over its requests, `computing_us` the time of the batch."""
        self.success.add(requests, queued_us + requests * computing_us)
        self.queue.add(requests, queued_us)
        self.compute.add(requests, requests * computing_us)
        self.rows += rows
        self.last_ms = at_us // 1000
        if rows in self.batches or len(self.batches) < SIZES_LIMIT:
            self.batches.setdefault(rows, Duration()).add(1, computing_us)

    def write(self) -> dict[str, Any]:
        """Return the statistics in the form of an announcement; empty if nothing was computed."""
        times = {name: [it.count, it.total_us] for name in _TIMES if (it := getattr(self, name)).count}
        batches = [[size, it.count, it.total_us] for size, it in sorted(self.batches.items())]
        return {**times, "rows": self.rows, "last_ms": self.last_ms, "batches": batches} if times else {}


def read_statistics(data: object) -> Statistics | None:
    """Read the statistics of an announcement; None if there are none or they are malformed."""
    if not isinstance(data, Mapping) or not data:
        return None
    try:
        times = {name: Duration(*_whole(data.get(name, (0, 0)), 2)) for name in _TIMES}
        rows, last_ms = _whole((data.get("rows", 0), data.get("last_ms", 0)), 2)
        sizes = [_whole(size, 3) for size in data.get("batches", ())][:SIZES_LIMIT]
    except (TypeError, ValueError):
        return None
    batches = {size: Duration(count, total_us) for size, count, total_us in sizes}
    return Statistics(**times, rows=rows, last_ms=last_ms, batches=batches)


def total_of(parts: Iterable[Statistics]) -> Statistics:
    """Return the sum of several replicas' statistics."""
    found = Statistics()
    for part in parts:
        for name in _TIMES:
            more = getattr(part, name)
            getattr(found, name).add(more.count, more.total_us)
        found.rows += part.rows
        found.last_ms = max(found.last_ms, part.last_ms)
        for size, more in part.batches.items():
            found.batches.setdefault(size, Duration()).add(more.count, more.total_us)
    return found


def _whole(values: Iterable[Any], number: int) -> tuple[int, ...]:
    found = tuple(values)
    if len(found) != number or not all(type(it) is int and 0 <= it < _LARGEST for it in found):
        raise ValueError(f"{number} whole numbers are expected")
    return found
