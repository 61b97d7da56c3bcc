"""The monitors' process: finds every endpoint, lets every monitor follow its event log, and reads queue depths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from broker.base import Broker, Since
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.protocol.ids import now_us
from broker.records.status import FULL_EVERY_S
from broker.support.tasks import Tasks, wait_for_event
from monitors.base import MonitorContext
from monitors.known import KnownVersions
from monitors.queues import QueueDepths
from monitors.reader import EventReader
from monitors.registry import NamedMonitor, make_monitors

ENDPOINTS_CHECK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """Settings of the monitors' process. `folder` is for its checkpoints: no other process may use it.

    `monitors` names the monitors to run; None runs all that are built in or installed.
    """

    instance: str
    folder: Path
    max_series: int = 2000
    metrics_port: int = 0
    monitors: Sequence[str] | None = None


async def run(
    broker: Broker,
    settings: MonitorSettings,
    registry: CollectorRegistry,
    stop: asyncio.Event,
    known: KnownVersions | None = None,
) -> None:
    """Monitor until `stop`, then write the checkpoints; `known` collects the endpoints and model versions."""
    known = known or KnownVersions()
    context = MonitorContext(registry=registry, max_series=settings.max_series)
    monitors = make_monitors(context, settings.folder, settings.monitors)
    readers = Tasks()
    began = Since(now_us() - int(2 * FULL_EVERY_S * 1e6))
    heartbeat = Heartbeat(broker, instance=settings.instance, part="monitors", metrics_port=settings.metrics_port)
    member = Membership(broker, heartbeat)
    await member.follow(declared=known.fold_declared, status=known.fold_status)
    await member.announce("ready")
    member.spawn(QueueDepths(broker, known, registry).run(), "queues")
    await _follow_all(broker, known, monitors, readers, began, stop)
    await readers.cancel()
    for one in monitors:
        await one.monitor.close()
    await member.leave()


async def _follow_all(
    broker: Broker,
    known: KnownVersions,
    monitors: Sequence[NamedMonitor],
    readers: Tasks,
    since: Since,
    stop: asyncio.Event,
) -> None:
    """Start the readers of every endpoint that appears. A withdrawn endpoint is still read: rows may yet come."""
    followed: set[str] = set()
    while not stop.is_set():
        for endpoint in known.endpoints() - followed:
            followed.add(endpoint)
            log = broker.channels.events(endpoint)
            for one in monitors:
                monitor = one.monitor.follow(endpoint)
                reader = EventReader(broker, log, monitor, checkpoint=one.checkpoint(endpoint), since=since)
                readers.spawn(reader.run(), f"{one.name}-{endpoint}")
        await wait_for_event(stop, ENDPOINTS_CHECK_S)
