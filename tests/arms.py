"""Real pipelines on a broker, for endpoints with several arms; each model version computes a function of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import Limits
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.events import read_event
from broker.records.merges import Merge, read_merge
from broker.records.status import Announcement, write_announcement
from broker.tensor.datatypes import Array
from processors.config import parse_config
from processors.metrics import ProcessorMetrics
from processors.model import LoadedModel, describe
from processors.pipeline import Pipeline, PipelineSettings
from tests.processors.pipeline_harness import FunctionRuntime

PATIENCE_S = 15.0
ONE_NUMBER = """
    backend: "python" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: 1 }
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""
RANKING = """
    backend: "python" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: 1 }
    output { name: "items" data_type: TYPE_STRING dims: -1 }
"""
X = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [2.0]}

Compute = Callable[[dict[str, Array]], Mapping[str, Array]]


@asynccontextmanager
async def processing(
    broker: Broker,
    versions: Mapping[int, Compute],
    text: str = ONE_NUMBER,
    *,
    model: str = "m",
    limits: Limits | None = None,
) -> AsyncIterator[None]:
    """Serve versions of a model within the block, and announce them as ready."""
    async with AsyncExitStack() as stack:
        for version, compute in versions.items():
            await stack.enter_async_context(_serving(broker, model, version, compute, text, limits or Limits()))
        yield


@asynccontextmanager
async def _serving(
    broker: Broker, name: str, version: int, compute: Compute, text: str, limits: Limits
) -> AsyncIterator[None]:
    config = parse_config(text, model=name, source="test")
    model = LoadedModel(config, version, FunctionRuntime(config, compute))
    instance = f"replica-{name}-{version}"
    metrics = ProcessorMetrics(CollectorRegistry(), name, version)
    pipeline = Pipeline(broker, model, {}, PipelineSettings(instance=instance), metrics)
    for queue in (pipeline.queue, broker.channels.retry(pipeline.queue)):
        await broker.declare(queue, limits)
    await announce(broker, name, version, full=dict(describe(config, [version])))
    consumer = broker.consume(pipeline.queue, pipeline.prefetch)
    running = asyncio.create_task(pipeline.run(consumer))
    try:
        yield
    finally:
        await consumer.stop()
        await running
        pipeline.close()


async def announce(broker: Broker, model: str, version: int, **more: Any) -> None:
    """Announce a model version as ready."""
    announcement = Announcement(
        instance=f"replica-{model}-{version}",
        part="replica",
        state="ready",
        at_us=now_us(),
        model=model,
        version=version,
        **more,
    )
    await broker.append(broker.channels.status, [write_announcement(announcement)])


async def records(broker: Broker, endpoint: str) -> list[Record]:
    """The records on an endpoint's event log so far, at most 1000."""
    log = broker.channels.events(endpoint)
    if not await broker.end(log):
        return []
    reader = broker.read(log, 0)
    try:
        return await reader.read(1000)
    finally:
        await reader.close()


async def rows(broker: Broker, endpoint: str, number: int) -> list[dict[str, Any]]:
    """Wait until an endpoint has `number` rows, and return them in order of leg and arm."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            batches = [read_event(record) for record in await records(broker, endpoint)]
            found = [row for batch in batches if batch is not None for row in batch.to_pylist()]
            if len(found) >= number:
                return sorted(found, key=lambda row: (row["leg"], row["arm"]))
            await asyncio.sleep(0.02)


async def merges(broker: Broker, endpoint: str, number: int) -> list[Merge]:
    """Wait until an endpoint has `number` merge records, and return them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = [merge for record in await records(broker, endpoint) if (merge := read_merge(record))]
            if len(found) >= number:
                return found
            await asyncio.sleep(0.02)
