"""The requests that wait for their answer, and the queue on which the answers come."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from broker.base import Broker, Consumer
from broker.bundle import answers_in
from broker.errors import Expired, InvalidRequest, MillraceError, QueueFull, Unavailable
from broker.header import Answer
from broker.tasks import Tasks
from gateway.rate import Rate

SWEEP_S = 0.05
TAKE = 1000


class _Waiting(NamedTuple):
    future: asyncio.Future[Answer]
    until_s: float
    allowed_s: float


class Pending:
    """Futures by uid. The first answer wins; one that nobody waits for is dropped."""

    def __init__(self, broker: Broker, queue: str, *, limit: int) -> None:
        self.queue = queue
        self._broker = broker
        self._limit = limit
        self._waiting: dict[bytes, _Waiting] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._consumer: Consumer | None = None
        self._stopping = False
        self._answered = 0
        self._rate = Rate()
        self.unclaimed = 0

    async def open(self) -> None:
        """Declare the queue of answers and start to take from it."""
        await self._broker.declare(self.queue)
        self._consumer = self._broker.consume(self.queue, TAKE)
        self._tasks.spawn(self._take(self._consumer), "answers")
        self._tasks.spawn(self._sweep(), "sweep")

    async def close(self) -> None:
        """Stop to take; who still waits hears that the gateway stops."""
        self.give_up()
        if self._consumer is not None:
            await self._consumer.stop()
        await self._tasks.cancel()

    def give_up(self) -> None:
        """End every wait, and let nobody start one: the gateway stops."""
        self._stopping = True
        for uid in list(self._waiting):
            self.fail(uid, Unavailable("this gateway stops; the request may still run: send it to another one"))

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, uid: bytes, allowed_s: float) -> asyncio.Future[Answer]:
        """Return the future of an answer; raises QueueFull when too many wait already."""
        if self._stopping:
            raise Unavailable("this gateway stops: send the request to another one")
        if len(self._waiting) >= self._limit:
            raise QueueFull(f"{self._limit} requests wait here already", retry_after_s=self.drain_s())
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[uid] = _Waiting(future, time.monotonic() + allowed_s, allowed_s)
        return future

    def fail(self, uid: bytes, error: MillraceError) -> None:
        """End a wait with an error."""
        waiting = self._waiting.pop(uid, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_exception(error)

    def forget(self, uid: bytes) -> None:
        """Nobody waits any more."""
        self._waiting.pop(uid, None)

    def drain_s(self) -> float:
        """Return how long what waits here takes to be answered, at the measured rate."""
        return self._rate.drain_s(len(self._waiting))

    async def drained(self, grace_s: float) -> None:
        """Wait until nobody waits, at most `grace_s`."""
        until = time.monotonic() + grace_s
        while self._waiting and time.monotonic() < until:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(SWEEP_S)

    async def _take(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(TAKE):
            for delivery in deliveries:
                try:
                    answers = answers_in(delivery.message)
                except InvalidRequest:  # nobody but us may write here: what cannot be read is nobody's answer
                    self.unclaimed += 1
                    continue
                for answer in answers:
                    self._resolve(answer)
            await self._broker.ack(deliveries)

    def _resolve(self, answer: Answer) -> None:
        waiting = self._waiting.pop(answer.uid, None)
        if waiting is None or waiting.future.done():
            self.unclaimed += 1
            return
        self._answered += 1
        waiting.future.set_result(answer)

    async def _sweep(self) -> None:
        """End waits that are over: one pass for all of them is cheaper than a timer for each."""
        before, answered = time.monotonic(), 0
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            if self._waiting or self._answered > answered:
                self._rate.observe(self._answered - answered, now - before)
            before, answered = now, self._answered
            for uid in [uid for uid, waiting in self._waiting.items() if waiting.until_s <= now]:
                allowed_ms = self._waiting[uid].allowed_s * 1000
                self.fail(uid, Expired(f"no answer within the {allowed_ms:.0f} ms allowed; it may still run"))
