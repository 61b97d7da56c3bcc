"""The half that goes through the queue, as any client of it sends: published with a reply address of its own."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from broker.base import Broker, Consumer
from broker.errors import Unavailable
from broker.messages import JSON_LENGTH_HEADER, Delivery, Message
from deploy.demo.digits import Digits
from deploy.demo.folder import ENDPOINT
from deploy.demo.http_half import JSON_LENGTH, encoded, label_of
from deploy.demo.tally import Answer, Tally

WINDOW = 256
AT_ONCE = 64
SILENCE_S = 60.0


class QueueHalf:
    """A client with one reply queue. It reads until it is closed, so that an answer that comes twice is seen."""

    def __init__(self, broker: Broker, digits: Digits, tally: Tally) -> None:
        self._broker = broker
        self._digits = digits
        self._tally = tally
        self._on_answer: Callable[[], None] = lambda: None
        self._queue = f"demo.answers.{secrets.token_hex(6)}"
        self._sent_s: dict[int, float] = {}
        self._missing: set[int] = set()
        self._came = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._consumer: Consumer | None = None

    async def open(self) -> None:
        """Make the reply queue, and make sure of the endpoint's."""
        await self._broker.declare(self._broker.channels.requests(ENDPOINT))
        await self._broker.declare(self._queue)
        self._consumer = self._broker.consume(self._queue, WINDOW)
        self._reading = asyncio.create_task(self._read(self._consumer), name="answers")

    async def ask(self, numbers: Sequence[int], on_answer: Callable[[], None]) -> None:
        """Send these digits, with at most WINDOW on their way, until all are answered or none comes any more."""
        self._on_answer = on_answer
        left = list(reversed(numbers))
        while left or self._missing:
            free = min(len(left), WINDOW - len(self._missing), AT_ONCE)
            if free > 0:
                await self._publish([left.pop() for _ in range(free)])
            elif not await self._answer_came():
                return

    async def close(self) -> None:
        """Stop reading and remove the reply queue."""
        if self._reading is not None and self._consumer is not None:
            await self._consumer.stop()
            await self._reading
        await self._broker.delete(self._queue)

    async def _publish(self, numbers: list[int]) -> None:
        now = time.monotonic()
        for number in numbers:
            self._sent_s[number] = now
            self._missing.add(number)
        for number, outcome in zip(
            numbers, await self._broker.publish([self._request(number) for number in numbers]), strict=True
        ):
            if not outcome.safe:
                raise Unavailable(f"the broker did not take request {number}: {outcome}")

    def _request(self, number: int) -> Message:
        body, headers = encoded(self._digits.images[number], number)
        plain: dict[str, Any] = {JSON_LENGTH_HEADER: int(headers[JSON_LENGTH])} if JSON_LENGTH in headers else {}
        return Message(
            queue=self._broker.channels.requests(ENDPOINT), body=body, content_type=headers["Content-Type"],
            reply_to=self._queue, correlation_id=str(number), message_id=str(number), headers=plain,
        )  # fmt: skip

    async def _answer_came(self) -> bool:
        self._came.clear()
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._came.wait()
        except TimeoutError:
            return False
        return True

    async def _read(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(AT_ONCE):
            for delivery in deliveries:
                self._note(delivery)
            await self._broker.ack(deliveries)
            self._came.set()

    def _note(self, delivery: Delivery) -> None:
        message = delivery.message
        number = int(message.correlation_id or -1)
        status = str(message.headers.get("status", "without a status"))
        length = message.headers.get(JSON_LENGTH_HEADER)
        self._missing.discard(number)
        self._tally.answers.append(
            Answer(
                number=number, way="queue", request_id=message.message_id or "",
                arm=str(message.headers.get("arm", "")),
                status=status if status == "ok" else f"{status} {bytes(message.body[:200]).decode('utf-8', 'replace')}",
                label=label_of(message.body, None if length is None else str(length)) if status == "ok" else -1,
                latency_s=time.monotonic() - self._sent_s.get(number, float("nan")),
            )
        )  # fmt: skip
        self._on_answer()
