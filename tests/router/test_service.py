"""The router for clients of the queue ends every request with an answer, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry

from broker.channels import Channels
from broker.declared import endpoint_declared
from broker.endpoint import read_endpoint
from broker.messages import NO_HEADERS, Delivery, Message, Outcome, Record
from broker.sqlite.adapter import SqliteBroker
from router.merged import RankerAnswers
from router.metrics import RouterMetrics
from router.service import EndpointService
from router.view import View

CHANNELS = Channels()
REQUESTS = CHANNELS.requests("e")
PATIENCE_S = 10.0


class Broken(SqliteBroker):
    """Forwards nothing to the model `broken`, for a reason that nobody foresaw."""

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        if any(message.queue == CHANNELS.inputs("broken", 1) for message in messages):
            raise RuntimeError("nobody foresaw this")
        return await super().forward(deliveries, messages)


@asynccontextmanager
async def serving(broker: SqliteBroker, model: str) -> AsyncIterator[View]:
    """Serve the endpoint `e` with one arm; its model's queue is not there."""
    view = View(b"secret")
    declare(view, model)
    for channel in (REQUESTS, CHANNELS.results("e"), CHANNELS.events("e"), "mine"):
        await broker.declare(channel)
    service = EndpointService(
        broker, view, "e", "router-test", RouterMetrics(CollectorRegistry()), RankerAnswers(broker, "r")
    )
    running = asyncio.create_task(service.run())
    try:
        yield view
    finally:
        await service.stop()
        await running


def declare(view: View, model: str) -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": {"v1": f"{model}@1"}}, source="test")
    view.fold_declared(Record(0, endpoint_declared(endpoint, "test"), NO_HEADERS))


async def send(broker: SqliteBroker, **timeouts_ms: int) -> None:
    """Send requests by correlation id, in one call: they come to the router together."""
    await broker.publish(
        [
            Message(queue=REQUESTS, body=b"{}", reply_to="mine", correlation_id=one, headers={"timeout_ms": timeout_ms})
            for one, timeout_ms in timeouts_ms.items()
        ]
    )


async def answers(broker: SqliteBroker, number: int) -> dict[str, tuple[str, str]]:
    """Return status and error of so many answers, by correlation id."""
    consumer = broker.consume("mine", 100)
    found: dict[str, tuple[str, str]] = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < number:
            for delivery in await consumer.take(number):
                said = delivery.message
                found[str(said.correlation_id)] = said.headers["status"], orjson.loads(said.body)["error"]
                await broker.ack([delivery])
    await consumer.stop()
    return found


async def test_an_error_that_nobody_foresaw_ends_its_requests_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Broken(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "broken") as view:
        await send(broker, one=60_000, two=60_000)
        found = await answers(broker, 2)
        assert found == dict.fromkeys(("one", "two"), ("failed", "the router could not forward it to broken@1"))
        assert "nobody foresaw this" in caplog.text
        declare(view, "whole")
        await broker.declare(CHANNELS.inputs("whole", 1))
        await send(broker, three=60_000)
        async with asyncio.timeout(PATIENCE_S):
            assert len(await broker.consume(CHANNELS.inputs("whole", 1), 1).take(1)) == 1
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as later:
        assert (await later.depth(REQUESTS)).messages == 0


async def test_a_request_whose_queue_takes_nothing_expires_once_and_its_bundle_goes_on(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "b.db", CHANNELS) as broker, serving(broker, "away"):
        await send(broker, short=150, long=60_000)
        found = await answers(broker, 1)
        assert found == {
            "short": ("expired", "its model's queue took nothing for as long as was allowed (no such queue)")
        }
        queue = CHANNELS.inputs("away", 1)
        await broker.declare(queue)
        async with asyncio.timeout(PATIENCE_S):
            [delivery] = await broker.consume(queue, 1).take(1)
        assert delivery.message.count == 1
        await broker.ack([delivery])
        assert (await broker.depth("mine")).messages == 0


async def test_refusals_that_nobody_can_be_told_of_are_counted(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        queue = broker.channels.requests("e")
        await broker.declare(queue)
        await broker.publish([Message(queue=queue, body=b"{}", reply_to="gone")] * 2)
        answers = RankerAnswers(broker, "router-test")
        service = EndpointService(broker, View(b"key"), "e", "router-test", RouterMetrics(registry), answers)
        running = asyncio.create_task(service.run())
        async with asyncio.timeout(10):
            while (await broker.depth(queue)).messages:  # noqa: ASYNC110 - a broker tells depth only when asked
                await asyncio.sleep(0.01)
            await service.stop()
            await running
    assert registry.get_sample_value("millrace_answers_dropped_total", {"reason": "no such queue"}) == 2
