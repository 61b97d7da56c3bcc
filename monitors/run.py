"""The Prometheus monitor: finds every endpoint, follows its event log, and looks at the queues."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from broker.base import Broker, Since
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.log_follower import LogFollower, follow_status
from broker.protocol.ids import now_us
from broker.records.status import FULL_EVERY_S
from broker.support.tasks import Tasks
from monitors.known import KnownVersions
from monitors.prometheus import MonitorMetrics, PredictionFold
from monitors.queues import QueueDepths
from monitors.reader import EventReader
from monitors.series import Series

LOOK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """How a monitor runs. `folder` keeps its checkpoints: no two monitors may share one."""

    instance: str
    folder: Path
    max_series: int = 2000
    metrics_port: int = 0


async def run(
    broker: Broker,
    settings: MonitorSettings,
    registry: CollectorRegistry,
    stop: asyncio.Event,
    known: KnownVersions | None = None,
) -> None:
    """Monitor until `stop`, then write where every log was left; `known` is filled with what there is."""
    known = known or KnownVersions()
    tasks, readers = Tasks(), Tasks()
    began = Since(now_us() - int(2 * FULL_EVERY_S * 1e6))
    channels = broker.channels
    await broker.declare(channels.declared)
    await broker.declare(channels.status)
    declared = LogFollower(broker, channels.declared, 0, known.fold_declared)
    status = follow_status(broker, known.fold_status)
    tasks.spawn(declared.run(), "declared")
    tasks.spawn(status.run(), "status")
    announcer = Heartbeat(broker, instance=settings.instance, part="monitors", metrics_port=settings.metrics_port)
    await announcer.set_state("ready")
    tasks.spawn(announcer.beat(), "heartbeat")
    tasks.spawn(QueueDepths(broker, known, registry).run(), "queues")
    await _follow_all(broker, settings, registry, known, readers, began, stop)
    await readers.cancel()
    await announcer.set_state("stopped")
    await tasks.cancel()


async def _follow_all(
    broker: Broker,
    settings: MonitorSettings,
    registry: CollectorRegistry,
    known: KnownVersions,
    readers: Tasks,
    since: Since,
    stop: asyncio.Event,
) -> None:
    """Start a reader for every endpoint that appears. One that was withdrawn is read on: rows may still come."""
    series, metrics = Series(registry, settings.max_series), MonitorMetrics(registry)
    followed: set[str] = set()
    while not stop.is_set():
        for endpoint in known.endpoints() - followed:
            followed.add(endpoint)
            reader = EventReader(
                broker,
                broker.channels.events(endpoint),
                PredictionFold(endpoint, series, metrics),
                checkpoint=settings.folder / f"{endpoint}.json",
                since=since,
            )
            readers.spawn(reader.run(), f"events-{endpoint}")
        try:
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        except TimeoutError:
            continue
