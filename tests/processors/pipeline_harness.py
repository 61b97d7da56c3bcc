"""A pipeline over an embedded broker, with a model that is a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import Channels
from broker.messages import Message
from broker.protocol.bundle import bundle, requests_in
from broker.protocol.header import BodyForm, ReplyTo, Request, Route, pack_route, pack_ticket
from broker.protocol.ids import new_uid, now_us
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.events import read_event
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.datatypes import Array
from processors.config import ModelConfig, parse_config
from processors.metrics import ProcessorMetrics
from processors.model import LoadedModel
from processors.pipeline import Pipeline, PipelineSettings
from processors.runtimes.base import Runtime

PATIENCE_S = 10.0
REPLIES = "replies"
SETTINGS = PipelineSettings(instance="test")
ROUTE = Route(endpoint="e", arm="v1", model="m", version=1, reply=ReplyTo.CLIENT, reply_to=REPLIES)

Compute = Callable[[dict[str, Array]], Mapping[str, Array]]


class FunctionRuntime(Runtime):
    """A runtime whose model is a function."""

    def __init__(self, config: ModelConfig, compute: Compute) -> None:
        super().__init__(config)
        self._function = compute

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> FunctionRuntime:
        raise NotImplementedError

    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        return self._function(inputs)

    def unload(self) -> None:
        pass


@dataclass
class PipelineHarness:
    """A running pipeline, its broker and its metrics; `errors` lists exceptions that no code handled."""

    broker: Broker
    pipeline: Pipeline
    registry: CollectorRegistry
    errors: list[str]
    metrics: ProcessorMetrics

    async def publish(self, *messages: Message) -> None:
        """Publish messages to their queues."""
        assert all(outcome.safe for outcome in await self.broker.publish(messages))

    async def serve(self, until: Callable[[], bool] | None = None) -> None:
        """Serve until the queue is empty and `until()` is true, then stop and drain as a replica does."""
        consumer = self.broker.consume(self.pipeline.queue, self.pipeline.prefetch)
        serving = asyncio.ensure_future(self.pipeline.run(consumer))
        async with asyncio.timeout(PATIENCE_S):
            while (await self.broker.depth(self.pipeline.queue)).messages or not (until is None or until()):
                assert not self.errors
                await asyncio.sleep(0.01)
            await consumer.stop()
            while not serving.done():
                assert not self.errors
                await asyncio.wait((serving,), timeout=0.05)
            await serving

    async def serve_alone(self) -> None:
        """Take one message of the retry queue and serve it alone."""
        consumer = self.broker.consume(self.broker.channels.retry(self.pipeline.queue), 1)
        async with asyncio.timeout(PATIENCE_S):
            (delivery,) = await consumer.take(1)
            await self.pipeline.run_alone(delivery)
            await consumer.stop()

    async def answers(self) -> dict[bytes, tuple[str, Any]]:
        """Take the answers so far; return status and body by uid."""
        return {
            bytes.fromhex((message.message_id or "").replace("-", "")): (
                message.headers["status"],
                orjson.loads(message.body),
            )
            for message in await self.take_all(REPLIES)
        }

    async def retried(self, number: int) -> list[Request]:
        """Wait until at least this many requests have reached the retry queue, and take them."""
        queue, requests = self.broker.channels.retry(self.pipeline.queue), []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                requests += [one for message in await self.take_all(queue) for one in requests_in(message)]
                if len(requests) >= number:
                    return requests
                await asyncio.sleep(0.02)

    async def take_all(self, queue: str) -> list[Message]:
        """Take and ack every message of a queue."""
        depth = await self.broker.depth(queue)
        if not depth.messages:
            return []
        consumer = self.broker.consume(queue, depth.messages)
        deliveries = await consumer.take(depth.messages)
        await self.broker.ack(deliveries)
        await consumer.stop()
        return [delivery.message for delivery in deliveries]

    async def rows(self, endpoint: str = "e") -> list[dict[str, Any]]:
        """Return the rows on the event log of an endpoint so far."""
        log = self.broker.channels.events(endpoint)
        if not await self.broker.end(log):
            return []
        reader = self.broker.read(log, 0)
        batches = [read_event(record) for record in await reader.read(1000)]
        await reader.close()
        return [row for batch in batches if batch is not None for row in batch.to_pylist()]


def request(value: float = 1.0, route: Route = ROUTE, *, output: str = "", **more: Any) -> Request:
    """Return a request for one row of `x`; `output` names its only requested output."""
    document: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}
    if output:
        document["outputs"] = [{"name": output}]
    made = Request(
        route=route, uid=new_uid(now_us()), accepted_us=now_us(), propensity=1.0, body=orjson.dumps(document)
    )
    return made._replace(**more)


def bundled(queue: str, requests: Sequence[Request]) -> Message:
    """Return a bundle of requests that share a route."""
    parts = [part for one in requests for part in (pack_ticket(one, len(one.body)), one.body)]
    return bundle(queue, BodyForm.BUNDLE, pack_route(requests[0].route), parts, len(requests))


@asynccontextmanager
async def running_pipeline(
    folder: Path,
    compute: Compute,
    *,
    output: str = "TYPE_FP32",
    broker_class: type[SqliteBroker] = SqliteBroker,
    retry: Mapping[str, Any] | None = None,
    cancels: Container[bytes] = frozenset(),
    settings: PipelineSettings = SETTINGS,
) -> AsyncIterator[PipelineHarness]:
    """Run a pipeline for a model with input `x` and outputs `y` and `z`; `retry` is the setting of its endpoint."""
    config = parse_config(
        f"""
        backend: "python" max_batch_size: 8
        input {{ name: "x" data_type: TYPE_FP32 dims: 1 }}
        output {{ name: "y" data_type: {output} dims: 1 }}
        output {{ name: "z" data_type: TYPE_FP32 dims: 1 }}
        """,
        model="m",
        source="test",
    )
    endpoints: dict[str, Endpoint] = {}
    if retry:
        endpoints["e"] = read_endpoint({"endpoint": "e", "arms": {"v1": "m@1"}, "retry": retry}, source="test")
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(repr(context)))
    async with broker_class(folder / "broker.db", Channels()) as broker:
        registry = CollectorRegistry()
        metrics = ProcessorMetrics(registry, "m", 1)
        model = LoadedModel(config, 1, FunctionRuntime(config, compute))
        pipeline = Pipeline(broker, model, endpoints, settings, metrics, cancels)
        for queue in (pipeline.queue, broker.channels.retry(pipeline.queue), REPLIES):
            await broker.declare(queue)
        yield PipelineHarness(broker, pipeline, registry, errors, metrics)
        pipeline.close()
        assert not errors
