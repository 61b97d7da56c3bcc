"""The requests that wait for their answers in this gateway."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from broker.base import Broker
from broker.errors import Expired, MillraceError, QueueFull, Unavailable
from broker.protocol.header import Answer, Request
from broker.support.tasks import Tasks
from gateway.core.answer_queue import AnswerQueue
from gateway.core.rate import AnswerRate
from router.ranking.fan_in import SWEEP_S, AnswersByArm, FanIn


class _Wait(NamedTuple):
    future: asyncio.Future[Answer]
    until_s: float
    allowed_s: float
    model: tuple[str, int]


class PendingRequests:
    """Futures by uid. The first answer counts; an answer without a wait is dropped and counted as `unclaimed`.

    One model version may have at most half of all waits, so that one that hangs leaves room for the others.
    """

    def __init__(self, broker: Broker, queue: str, *, limit: int) -> None:
        self.answers = AnswerQueue(broker, queue, self._resolve_all)
        self.unclaimed = 0
        self._limit = limit
        self._limit_per_model = max(1, limit // 2)
        self._by_model: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._waits: dict[bytes, _Wait] = {}
        self._fan_in = FanIn()
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._stopping = False
        self._answered = 0
        self._rate = AnswerRate()

    def __len__(self) -> int:
        return len(self._waits) + len(self._fan_in)

    async def open(self) -> None:
        """Start to take answers and to end the waits that are over."""
        await self.answers.open()
        self._tasks.spawn(self._sweep(), "sweep")

    async def close(self) -> None:
        """End every wait and stop taking answers."""
        self.give_up()
        await self.answers.close()
        await self._tasks.cancel()

    def give_up(self) -> None:
        """End every wait and refuse new ones, because the gateway stops."""
        self._stopping = True
        stops = Unavailable("this gateway stops; the request may still run: send it to another one")
        for uid in list(self._waits):
            self.fail(uid, stops)
        self._fan_in.fail_all(stops)

    def expect(self, uid: bytes, allowed_s: float, model: tuple[str, int]) -> asyncio.Future[Answer]:
        """Return the future of an answer from a model version. Raises QueueFull when too many requests wait."""
        self._check_room()
        if self._by_model[model] >= self._limit_per_model:
            raise QueueFull(
                f"{self._by_model[model]} requests wait for {model[0]}@{model[1]} here already",
                retry_after_s=self.drain_s(),
            )
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waits[uid] = _Wait(future, time.monotonic() + allowed_s, allowed_s, model)
        self._by_model[model] += 1
        return future

    def gather(
        self, uid: bytes, arms: Collection[str], *, wait_s: float, allowed_s: float
    ) -> asyncio.Future[AnswersByArm]:
        """Return the future of the answers of several arms (see `FanIn`). Raises QueueFull as `expect` does."""
        self._check_room()
        return self._fan_in.expect(uid, arms, wait_s=wait_s, allowed_s=allowed_s)

    def refuse(self, request: Request, error: MillraceError) -> None:
        """End the wait for a request that was not published; of several arms only this one ends."""
        if request.uid in self._fan_in:
            self._fan_in.refuse(request.uid, request.route.arm, error)
        else:
            self.fail(request.uid, error)

    def fail(self, uid: bytes, error: MillraceError) -> None:
        """End a wait with an error."""
        wait = self._pop(uid)
        if wait is None:
            self._fan_in.fail(uid, error)
        elif not wait.future.done():
            wait.future.set_exception(error)

    def forget(self, uid: bytes) -> None:
        """End a wait without a result: its client is gone or has its answer."""
        self._pop(uid)
        self._fan_in.forget(uid)

    def drain_s(self) -> float:
        """Seconds until all waiting requests are answered, at the measured rate."""
        return self._rate.drain_s(len(self))

    async def drained(self, grace_s: float) -> None:
        """Wait until no request waits, for at most `grace_s` seconds."""
        until = time.monotonic() + grace_s
        while len(self) and time.monotonic() < until:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(SWEEP_S)

    def _pop(self, uid: bytes) -> _Wait | None:
        wait = self._waits.pop(uid, None)
        if wait is not None:
            self._by_model[wait.model] -= 1
        return wait

    def _check_room(self) -> None:
        if self._stopping:
            raise Unavailable("this gateway stops: send the request to another one")
        if trouble := self.answers.trouble():
            raise Unavailable(f"no answers can reach this gateway now: {trouble}")
        if len(self) >= self._limit:
            raise QueueFull(f"{self._limit} requests wait here already", retry_after_s=self.drain_s())

    def _resolve_all(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            wait = self._pop(answer.uid)
            if wait is None:
                self._resolve_fan_in(answer)
            elif wait.future.done():
                self.unclaimed += 1
            else:
                self._answered += 1
                wait.future.set_result(answer)

    def _resolve_fan_in(self, answer: Answer) -> None:
        before = len(self._fan_in)
        self.unclaimed += not self._fan_in.take(answer)
        self._answered += before - len(self._fan_in)

    async def _sweep(self) -> None:
        """End the waits that are over: one pass over all of them is cheaper than a timer for each."""
        before_s, answered = time.monotonic(), 0
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            self.answers.trouble()
            if len(self) or self._answered > answered:
                self._rate.observe(self._answered - answered, now_s - before_s)
            before_s, answered = now_s, self._answered
            for uid in [uid for uid, wait in self._waits.items() if wait.until_s <= now_s]:
                allowed_ms = self._waits[uid].allowed_s * 1000
                self.fail(uid, Expired(f"no answer within the {allowed_ms:.0f} ms allowed; it may still run"))
            self._fan_in.sweep()
