"""The requests that wait for their answer, and the queue on which the answers come."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from broker.base import Broker, Consumer
from broker.errors import Expired, InvalidRequest, MillraceError, QueueFull, Unavailable
from broker.protocol.bundle import answers_in
from broker.protocol.header import Answer, Request
from broker.support.tasks import Tasks
from gateway.core.rate import AnswerRate
from router.ranking.fan_in import SWEEP_S, AnswersByArm, FanIn

TAKE = 1000
TROUBLED_S = 2.0


class _Waiting(NamedTuple):
    future: asyncio.Future[Answer]
    until_s: float
    allowed_s: float
    model: tuple[str, int]


class PendingRequests:
    """Futures by uid. The first answer wins; one that nobody waits for is dropped.

    One model version may have half of all waits: one that hangs leaves room for the others.
    """

    def __init__(self, broker: Broker, queue: str, *, limit: int) -> None:
        self.queue = queue
        self._broker = broker
        self._limit = limit
        self._limit_of_one = max(1, limit // 2)
        self._by_model: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._waiting: dict[bytes, _Waiting] = {}
        self._gathering = FanIn()
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._consumer: Consumer | None = None
        self._stopping = False
        self._answered = 0
        self._rate = AnswerRate()
        self.unclaimed = 0
        self._untroubled_at = time.monotonic()

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
        stops = Unavailable("this gateway stops; the request may still run: send it to another one")
        for uid in list(self._waiting):
            self.fail(uid, stops)
        self._gathering.fail_all(stops)

    def trouble(self) -> str:
        """Return why no answers can come, if that has been so for a while, else nothing; to be asked often."""
        trouble, now = self._consumer.trouble if self._consumer is not None else "", time.monotonic()
        if not trouble:
            self._untroubled_at = now
        return trouble if now - self._untroubled_at >= TROUBLED_S else ""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._gathering)

    def expect(self, uid: bytes, allowed_s: float, model: tuple[str, int]) -> asyncio.Future[Answer]:
        """Return the future of an answer from a model version; raises QueueFull when too many wait already."""
        self._check_room()
        if self._by_model[model] >= self._limit_of_one:
            raise QueueFull(
                f"{self._by_model[model]} requests wait for {model[0]}@{model[1]} here already",
                retry_after_s=self.drain_s(),
            )
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[uid] = _Waiting(future, time.monotonic() + allowed_s, allowed_s, model)
        self._by_model[model] += 1
        return future

    def gather(
        self, uid: bytes, arms: Collection[str], *, wait_s: float, allowed_s: float
    ) -> asyncio.Future[AnswersByArm]:
        """Return the future of what several arms answer (see `FanIn`); raises QueueFull like `expect`."""
        self._check_room()
        return self._gathering.expect(uid, arms, wait_s=wait_s, allowed_s=allowed_s)

    def refuse(self, request: Request, error: MillraceError) -> None:
        """End the wait for a request that is in no queue; one of several arms of a request is given up by itself."""
        if request.uid in self._gathering:
            self._gathering.refuse(request.uid, request.route.arm, error)
        else:
            self.fail(request.uid, error)

    def fail(self, uid: bytes, error: MillraceError) -> None:
        """End a wait with an error."""
        waiting = self._pop(uid)
        if waiting is None:
            self._gathering.fail(uid, error)
        elif not waiting.future.done():
            waiting.future.set_exception(error)

    def forget(self, uid: bytes) -> None:
        """Nobody waits any more."""
        self._pop(uid)
        self._gathering.forget(uid)

    def drain_s(self) -> float:
        """Return how long what waits here takes to be answered, at the measured rate."""
        return self._rate.drain_s(len(self))

    async def drained(self, grace_s: float) -> None:
        """Wait until nobody waits, at most `grace_s`."""
        until = time.monotonic() + grace_s
        while len(self) and time.monotonic() < until:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(SWEEP_S)

    def _pop(self, uid: bytes) -> _Waiting | None:
        waiting = self._waiting.pop(uid, None)
        if waiting is not None:
            self._by_model[waiting.model] -= 1
        return waiting

    def _check_room(self) -> None:
        if self._stopping:
            raise Unavailable("this gateway stops: send the request to another one")
        if trouble := self.trouble():
            raise Unavailable(f"no answers can reach this gateway now: {trouble}")
        if len(self) >= self._limit:
            raise QueueFull(f"{self._limit} requests wait here already", retry_after_s=self.drain_s())

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
        waiting = self._pop(answer.uid)
        if waiting is None:
            gathering = len(self._gathering)
            self.unclaimed += not self._gathering.take(answer)
            self._answered += gathering - len(self._gathering)
        elif waiting.future.done():
            self.unclaimed += 1
        else:
            self._answered += 1
            waiting.future.set_result(answer)

    async def _sweep(self) -> None:
        """End waits that are over: one pass for all of them is cheaper than a timer for each."""
        before, answered = time.monotonic(), 0
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            self.trouble()
            if len(self) or self._answered > answered:
                self._rate.observe(self._answered - answered, now - before)
            before, answered = now, self._answered
            for uid in [uid for uid, waiting in self._waiting.items() if waiting.until_s <= now]:
                allowed_ms = self._waiting[uid].allowed_s * 1000
                self.fail(uid, Expired(f"no answer within the {allowed_ms:.0f} ms allowed; it may still run"))
            self._gathering.sweep()
