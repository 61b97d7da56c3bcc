"""The half of the requests that is published to the queue, with a reply queue, as queue clients do."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from broker.base import Broker, Consumer
from broker.errors import Unavailable
from broker.messages import JSON_LENGTH_HEADER, Delivery, Message
from deploy.demo.wire import JSON_LENGTH, DemoReply, DemoRequest

QUEUES_S = 30.0
QUEUES_EVERY_S = 0.1
WINDOW = 256
AT_ONCE = 64
SILENCE_S = 60.0


class QueueHalf:
    """A queue client with one reply queue; it reads until it is closed, so it finds repeated answers."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._sent: dict[str, tuple[float, asyncio.Future[DemoReply]]] = {}
        self.repeats: list[tuple[str, DemoReply]] = []  # (endpoint, answer) of requests answered before

    async def send(self, ask: DemoRequest) -> DemoReply | None:
        """Send one request and return its answer, None after SILENCE_S without one; raises Unavailable."""
        correlation = f"{ask.endpoint}/{ask.number}"
        future = asyncio.get_running_loop().create_future()
        self._sent[correlation] = (time.monotonic(), future)
        [outcome] = await self._broker.publish([self._message(ask, correlation)])
        if not outcome.safe:
            raise Unavailable(f"the broker did not take request {correlation}: {outcome}")
        try:
            async with asyncio.timeout(SILENCE_S):
                return await asyncio.shield(future)
        except TimeoutError:
            return None

    async def read(self, consumer: Consumer) -> None:
        """Resolve the futures of `send` with the answers, until the consumer is stopped."""
        while deliveries := await consumer.take(AT_ONCE):
            for delivery in deliveries:
                self._take(delivery)
            await self._broker.ack(deliveries)

    def _message(self, ask: DemoRequest, correlation: str) -> Message:
        headers: dict[str, Any] = {}
        if JSON_LENGTH in ask.headers:
            headers[JSON_LENGTH_HEADER] = int(ask.headers[JSON_LENGTH])
        return Message(
            queue=self._broker.channels.requests(ask.endpoint),
            body=ask.body,
            reply_to=self._queue,
            headers=headers,
            content_type=ask.headers["Content-Type"],
            correlation_id=correlation,
            message_id=correlation,
        )

    def _take(self, delivery: Delivery) -> None:
        reply, correlation = _reply(delivery), delivery.message.correlation_id or ""
        sent_s, future = self._sent.get(correlation, (float("nan"), None))
        if future is None or future.done():
            self.repeats.append((correlation.partition("/")[0], reply))
        else:
            future.set_result(replace(reply, latency_s=time.monotonic() - sent_s))


def _reply(delivery: Delivery) -> DemoReply:
    message = delivery.message
    number = (message.correlation_id or "").rpartition("/")[2]
    length = message.headers.get(JSON_LENGTH_HEADER)
    return DemoReply(
        number=int(number) if number.isdigit() else -1,
        way="queue",
        request_id=message.message_id or "",
        status=str(message.headers.get("status", "without a status")),
        arm=str(message.headers.get("arm", "")),
        body=bytes(message.body),
        json_length=None if length is None else int(str(length)),
        latency_s=float("nan"),
    )


@asynccontextmanager
async def queue_half(broker: Broker, endpoints: Iterable[str]) -> AsyncIterator[QueueHalf]:
    """Wait for the endpoints' queues, declare a reply queue, and yield a client; delete the reply queue afterwards."""
    queues = [broker.channels.requests(endpoint) for endpoint in endpoints]
    async with asyncio.timeout(QUEUES_S):
        while await broker.missing(queues):  # noqa: ASYNC110 - the router declares them
            await asyncio.sleep(QUEUES_EVERY_S)
    queue = f"demo.answers.{secrets.token_hex(6)}"
    await broker.declare(queue)
    half, consumer = QueueHalf(broker, queue), broker.consume(queue, WINDOW)
    reading = asyncio.create_task(half.read(consumer), name="answers")
    try:
        yield half
    finally:
        await consumer.stop()
        await reading
        await broker.delete(queue)
