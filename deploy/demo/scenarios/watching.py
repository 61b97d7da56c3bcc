"""What the learner says while a scenario runs: every snapshot with its time, and how experiments end."""

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
class HeardSnapshot:
    """A snapshot, and when it was heard (monotonic seconds)."""

    at_s: float
    said: SnapshotRecord


class SnapshotWatcher:
    """Follows `declared` and `status`, as gateways and routers do."""

    def __init__(self) -> None:
        self._view = View(b"nothing is drawn here")
        self._heard: dict[str, list[HeardSnapshot]] = {}
        self._verdicts: dict[str, ExperimentResult] = {}

    def fold_declared(self, record: Record) -> None:
        """Take in a record of `declared`."""
        self._view.fold_declared(record)
        verdict = read_experiment_result(record)
        if verdict is not None:
            self._verdicts[verdict.endpoint] = verdict

    def fold_status(self, record: Record) -> None:
        """Take in a record of `status`."""
        self._view.fold_status(record)
        said = read_snapshot(record)
        if said is not None and self._view.snapshot_of(said.endpoint) == said:
            self._heard.setdefault(said.endpoint, []).append(HeardSnapshot(time.monotonic(), said))

    def heard(self, endpoint: str) -> list[HeardSnapshot]:
        """Return all snapshots of an endpoint, in order."""
        return self._heard.get(endpoint, [])

    def newest(self, endpoint: str) -> SnapshotRecord | None:
        """Return the last snapshot of an endpoint, None before the first."""
        heard = self.heard(endpoint)
        return heard[-1].said if heard else None

    def verdict(self, endpoint: str) -> ExperimentResult | None:
        """Return how an endpoint's experiment ended, if it has."""
        return self._verdicts.get(endpoint)

    async def first(self, endpoint: str, limit_s: float) -> None:
        """Wait until the learner has said something of an endpoint; raises Unavailable."""
        if not await self._until(lambda: bool(self.heard(endpoint)), limit_s):
            raise Unavailable(f"the learner has said nothing of endpoint {endpoint} for {limit_s:.0f} s")

    async def end(self, endpoint: str, limit_s: float) -> ExperimentResult | None:
        """Wait for the end of an endpoint's experiment; None if it does not come in time."""
        await self._until(lambda: self.verdict(endpoint) is not None, limit_s)
        return self.verdict(endpoint)

    async def _until(self, is_there: Callable[[], bool], limit_s: float) -> bool:
        until = time.monotonic() + limit_s
        while not is_there() and time.monotonic() < until:  # noqa: ASYNC110 - nothing waits that is in a hurry
            await asyncio.sleep(LOOK_S)
        return is_there()


@asynccontextmanager
async def watching(broker: Broker) -> AsyncIterator[SnapshotWatcher]:
    """Follow while the block runs."""
    one = SnapshotWatcher()
    logs = {broker.channels.declared: one.fold_declared, broker.channels.status: one.fold_status}
    tasks = [asyncio.create_task(LogFollower(broker, log, 0, fold).run(), name=log) for log, fold in logs.items()]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
