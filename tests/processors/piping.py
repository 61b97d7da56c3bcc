"""One pipeline over an embedded broker, with a model that is a function."""

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
from broker.protocol.bundle import bundle, requests_in, single
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
ROUTE = Route(endpoint="e", arm="v1", model="m", version=1, reply=ReplyTo.CLIENT, reply_to=REPLIES)

Compute = Callable[[dict[str, Array]], Mapping[str, Array]]


class Function(Runtime):
    """A runtime whose model is a function."""

    def __init__(self, config: ModelConfig, compute: Compute) -> None:
        super().__init__(config)
        self._function = compute

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> Function:
        """See the port."""
        raise NotImplementedError

    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """See the port."""
        return self._function(inputs)

    def unload(self) -> None:
        """See the port."""


@dataclass
class Pipe:
    """What a test holds in its hands."""

    broker: Broker
    pipeline: Pipeline
    registry: CollectorRegistry
    died: list[str]
    metrics: ProcessorMetrics

    async def put(self, *messages: Message) -> None:
        """Put messages on the model's queue."""
        assert all(outcome.safe for outcome in await self.broker.publish(messages))

    async def serve(self, until: Callable[[], bool] | None = None) -> None:
        """Serve until the queue is empty and `until` says so, then stop and drain as a replica does."""
        consumer = self.broker.consume(self.pipeline.queue, self.pipeline.prefetch)
        serving = asyncio.ensure_future(self.pipeline.run(consumer))
        async with asyncio.timeout(PATIENCE_S):
            while (await self.broker.depth(self.pipeline.queue)).messages or not (until is None or until()):
                assert not self.died
                await asyncio.sleep(0.01)
            await consumer.stop()
            while not serving.done():
                assert not self.died
                await asyncio.wait((serving,), timeout=0.05)
            await serving

    async def serve_alone(self) -> None:
        """Take one message of the retry lane and serve it alone."""
        lane = self.broker.consume(self.broker.channels.retry(self.pipeline.queue), 1)
        async with asyncio.timeout(PATIENCE_S):
            (delivery,) = await lane.take(1)
            await self.pipeline.run_alone(delivery)
            await lane.stop()

    async def answers(self) -> dict[bytes, tuple[str, Any]]:
        """Return the status and the body of each answer so far, by the uid."""
        return {
            bytes.fromhex((message.message_id or "").replace("-", "")): (
                message.headers["status"],
                orjson.loads(message.body),
            )
            for message in await self.waiting(REPLIES)
        }

    async def lane(self, number: int) -> list[Request]:
        """Return the requests of the retry lane, once there are so many."""
        lane, requests = self.broker.channels.retry(self.pipeline.queue), []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                requests += [one for message in await self.waiting(lane) for one in requests_in(message)]
                if len(requests) >= number:
                    return requests
                await asyncio.sleep(0.02)

    async def waiting(self, queue: str) -> list[Message]:
        """Take all that waits in a queue."""
        depth = await self.broker.depth(queue)
        if not depth.messages:
            return []
        consumer = self.broker.consume(queue, depth.messages)
        deliveries = await consumer.take(depth.messages)
        await self.broker.ack(deliveries)
        await consumer.stop()
        return [delivery.message for delivery in deliveries]

    async def rows(self, endpoint: str = "e") -> list[dict[str, Any]]:
        """Return all rows of an endpoint so far."""
        log = self.broker.channels.events(endpoint)
        if not await self.broker.end(log):
            return []
        reader = self.broker.read(log, 0)
        batches = [read_event(record) for record in await reader.read(1000)]
        await reader.close()
        return [row for batch in batches if batch is not None for row in batch.to_pylist()]


def request(value: float = 1.0, route: Route = ROUTE, *, asks: str = "", **more: Any) -> Request:
    """Return a request for one row of `x`; `asks` names the one output that it wants."""
    document: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}
    if asks:
        document["outputs"] = [{"name": asks}]
    made = Request(
        route=route, uid=new_uid(now_us()), accepted_us=now_us(), propensity=1.0, body=orjson.dumps(document)
    )
    return made._replace(**more)


def bundled(queue: str, requests: Sequence[Request]) -> Message:
    """Return a bundle of requests that share a route."""
    parts = [part for one in requests for part in (pack_ticket(one, len(one.body)), one.body)]
    return bundle(queue, BodyForm.BUNDLE, pack_route(requests[0].route), parts, len(requests))


def alone(queue: str, one: Request) -> Message:
    """Return a message with a single request."""
    return single(queue, one)


@asynccontextmanager
async def piped(
    folder: Path,
    compute: Compute,
    *,
    output: str = "TYPE_FP32",
    kind: type[SqliteBroker] = SqliteBroker,
    retry: Mapping[str, Any] | None = None,
    cancels: Container[bytes] = frozenset(),
) -> AsyncIterator[Pipe]:
    """Run a pipeline for a model from `x` to `y` (and `z`) of one number a row; `retry` is its endpoint's."""
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
    died: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: died.append(repr(trouble)))
    async with kind(folder / "broker.db", Channels()) as broker:
        settings = PipelineSettings(instance="test")
        registry = CollectorRegistry()
        metrics = ProcessorMetrics(registry, "m", 1)
        model = LoadedModel(config, 1, Function(config, compute))
        pipeline = Pipeline(broker, model, endpoints, settings, metrics, cancels)
        for queue in (pipeline.queue, broker.channels.retry(pipeline.queue), REPLIES):
            await broker.declare(queue)
        yield Pipe(broker, pipeline, registry, died, metrics)
        pipeline.close()
        assert not died
