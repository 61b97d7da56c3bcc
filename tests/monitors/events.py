"""Events as processors write them, and a monitor that reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from broker.base import Broker, Since
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import new_uid
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.records.events import EndedRequests, write_event
from monitors.prometheus import MonitorMetrics, PredictionFold
from monitors.reader import EventReader
from monitors.series import Series

PATIENCE_S = 10.0
PREDICTIONS = "millrace_predictions_total"
DECLARED = endpoint_declared(read_endpoint({"endpoint": "fraud", "arms": {"a": "trees@1"}}, source="test"), "test")
AT_US = 1_700_000_000_000_000


def ended(
    *,
    arm: str = "a",
    version: int = 1,
    status: Status = Status.OK,
    rows: int = 1,
    uid: bytes | None = None,
    batch: int = 4,
    started_us: int = AT_US + 30_000,
    leg: int = 0,
) -> EndedRequests:
    """Return a request that waited 20 ms in the queue, 10 in the batcher, 3 in the model, and 1 to be published."""
    route = Route(endpoint="fraud", arm=arm, model="trees", version=version, leg=leg)
    request = Request(route=route, uid=uid or new_uid(AT_US), accepted_us=AT_US, propensity=1.0)
    computed = started_us + 3000 if started_us else 0
    published = computed + 1000 if computed else AT_US + 21_000
    return EndedRequests(
        requests=[request],
        rows=[rows],
        taken_us=[AT_US + 20_000],
        status=status,
        started_us=started_us,
        computed_us=computed,
        published_us=published,
        batch=batch,
    )


async def write(broker: Broker, *events: list[EndedRequests]) -> None:
    """Append events to the log of `fraud`."""
    log = broker.channels.events("fraud")
    await broker.declare(log)
    for event in events:
        body, headers = write_event(event, [], [], source="/test")
        (outcome,) = await broker.append(log, [body], headers)
        assert outcome.safe


@dataclass
class FraudMonitor:
    """A Prometheus monitor of the endpoint `fraud`, with its own metrics registry."""

    reader: EventReader
    registry: CollectorRegistry
    task: asyncio.Task[None] = field(init=False)

    def value(self, name: str, **labels: str) -> float:
        """The value of a sample, or 0 if it does not exist."""
        return self.registry.get_sample_value(name, {"endpoint": "fraud", **labels}) or 0.0

    def arm(self, name: str, **labels: str) -> float:
        """The value of a sample of arm `a`."""
        return self.value(name, model="trees", version="1", arm="a", **labels)

    async def end(self) -> None:
        """Stop the reader, which writes its checkpoint."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def monitoring(
    broker: Broker, folder: Path, *, window_rows: int = 1000, series: int = 2000
) -> AsyncIterator[FraudMonitor]:
    """Run a monitor of `fraud`, which is stopped at the end."""
    registry = CollectorRegistry()
    fold = PredictionFold("fraud", Series(registry, series), MonitorMetrics(registry), window_rows=window_rows)
    log = broker.channels.events("fraud")
    monitor = FraudMonitor(EventReader(broker, log, fold, checkpoint=folder / "fraud.json", since=Since(0)), registry)
    monitor.task = asyncio.create_task(monitor.reader.run())
    try:
        yield monitor
    finally:
        await monitor.end()
