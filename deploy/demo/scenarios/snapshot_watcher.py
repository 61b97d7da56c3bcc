"""Collects the learner's snapshots and experiment results while a scenario runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.base import Broker
from broker.delivery.log_follower import LogFollower
from broker.errors import Unavailable
from broker.messages import Record
from broker.records.routing import ExperimentResult, SnapshotRecord, read_experiment_result, read_snapshot
from router.state.view import View

LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class TimedSnapshot:
    """A snapshot and its time of arrival (monotonic seconds)."""

    at_s: float
    snapshot: SnapshotRecord


class SnapshotWatcher:
    """Follows `declared` and `status`; keeps the snapshots that gateways and routers accept."""

    def __init__(self) -> None:
        self._view = View(b"nothing is drawn here")
        self._snapshots: dict[str, list[TimedSnapshot]] = {}
        self._results: dict[str, ExperimentResult] = {}

    def fold_declared(self, record: Record) -> None:
        """Read a record of `declared`."""
        self._view.fold_declared(record)
        result = read_experiment_result(record)
        if result is not None:
            self._results[result.endpoint] = result

    def fold_status(self, record: Record) -> None:
        """Read a record of `status`."""
        self._view.fold_status(record)
        snapshot = read_snapshot(record)
        if snapshot is not None and self._view.snapshot_of(snapshot.endpoint) == snapshot:
            self._snapshots.setdefault(snapshot.endpoint, []).append(TimedSnapshot(time.monotonic(), snapshot))

    def snapshots(self, endpoint: str) -> list[TimedSnapshot]:
        """All snapshots of an endpoint, in order."""
        return self._snapshots.get(endpoint, [])

    def newest(self, endpoint: str) -> SnapshotRecord | None:
        """The last snapshot of an endpoint, None before the first."""
        found = self.snapshots(endpoint)
        return found[-1].snapshot if found else None

    def result(self, endpoint: str) -> ExperimentResult | None:
        """The result of an endpoint's experiment, None before its end."""
        return self._results.get(endpoint)

    async def first(self, endpoint: str, limit_s: float) -> None:
        """Wait for the first snapshot of an endpoint; raises Unavailable after `limit_s` seconds."""
        if not await self._until(lambda: bool(self.snapshots(endpoint)), limit_s):
            raise Unavailable(f"the learner has published no snapshot of endpoint {endpoint} for {limit_s:.0f} s")

    async def end(self, endpoint: str, limit_s: float) -> ExperimentResult | None:
        """Wait for the result of an endpoint's experiment; returns None after `limit_s` seconds without one."""
        await self._until(lambda: self.result(endpoint) is not None, limit_s)
        return self.result(endpoint)

    async def _until(self, is_there: Callable[[], bool], limit_s: float) -> bool:
        until = time.monotonic() + limit_s
        while not is_there() and time.monotonic() < until:  # noqa: ASYNC110 - set by a fold
            await asyncio.sleep(LOOK_S)
        return is_there()


@asynccontextmanager
async def watching(broker: Broker) -> AsyncIterator[SnapshotWatcher]:
    """Follow the logs while the block runs."""
    watcher = SnapshotWatcher()
    logs = {broker.channels.declared: watcher.fold_declared, broker.channels.status: watcher.fold_status}
    tasks = [asyncio.create_task(LogFollower(broker, log, 0, fold).run(), name=log) for log, fold in logs.items()]
    try:
        yield watcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
