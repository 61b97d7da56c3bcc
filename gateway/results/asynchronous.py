"""Requests that are stored: asynchronous ones, those that may become so, and those with an idempotency key.

Their answers come by a queue of the results store's own, from which any gateway that shares the store takes them into
it; the first one wins. So they survive the gateway that took them in.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from broker.base import Consumer
from broker.errors import InvalidRequest, MillraceError, NotFound, QueueFull, TryAgain, Unavailable, Unreachable
from broker.protocol.answers import error_body
from broker.protocol.bundle import answers_in
from broker.protocol.header import Answer, Request, Status
from broker.protocol.ids import now_us, uid_text
from broker.support.tasks import Tasks
from gateway.core.core import Core
from gateway.core.rate import AnswerRate
from gateway.core.sending import RequestSender
from gateway.results.store import KeyClaim, ResultsStore, StoredResult
from gateway.transport.errors import AlreadyEnded, KeyReused, ResultExpired

TAKE = 32  # messages, which may be large ones
POLL_S = 0.1  # another gateway may have stored the answer
LATE_S = 10.0  # behind its deadline an answer may still be on its way to the store: nobody says yet that there is none
PUBLISH_S = 5.0  # a broker that has not confirmed a request by then is not waited for
OTHERS_S = 1.0  # what another gateway has begun it may just be publishing
ASK_AT_ONCE = 500
SWEEP_S = 5.0
TIMER_S = 0.002  # uvloop counts whole milliseconds: a timer may be early
MEASURE_S = 1.0
PAUSE_S = 0.5

log = logging.getLogger(__name__)

_Answered: TypeAlias = Callable[[], Awaitable[Answer | None]]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """How a stored request stands: `answer` None says that it is pending; `again` that it had been sent before."""

    uid: bytes
    answer: Answer | None
    again: bool = False


class StoredRequests:
    """Stores requests, sends them, and waits for their answers as long as a client wishes."""

    def __init__(self, core: Core, results: ResultsStore, sending: RequestSender) -> None:
        self._core = core
        self._results = results
        self._sending = sending
        self._waiting: dict[bytes, set[asyncio.Future[Answer]]] = {}
        self._tasks = Tasks()
        self._consumer: Consumer | None = None
        self._rate = AnswerRate()
        self._answered = 0
        self._publishing: dict[bytes, asyncio.Task[None]] = {}
        self._open_s = math.inf  # since when answers are taken
        self._missing = "the results store is not open yet"
        self.stopping = False
        self.used_bytes = 0

    async def open(self) -> None:
        """Open the store and start to take answers into it. A store that cannot be used stops nothing else."""
        if not await self._try_open():
            self._tasks.spawn(self._keep_opening(), "opening the results store")

    async def _keep_opening(self) -> None:
        while not await self._try_open():  # noqa: ASYNC110 - a disk has no event
            await asyncio.sleep(PAUSE_S)

    async def _try_open(self) -> bool:
        try:
            if not self._results.identity:
                await self._results.open()
            self.used_bytes = await self._results.sweep()
            await self._core.broker.declare(self.queue)
        except MillraceError as exc:
            if self._missing != str(exc):
                log.warning("asynchronous requests and idempotency keys are not served: %s", exc)
            self._missing = str(exc)
            return False
        self._missing, self._open_s = "", time.monotonic()
        self._consumer = self._core.broker.consume(self.queue, TAKE)
        self._tasks.spawn(self._take(self._consumer), "stored answers")
        self._tasks.spawn(self._poll(), "answers that others stored")
        self._tasks.spawn(self._sweep(), "results sweep")
        self._tasks.spawn(self._measure(), "rate of stored answers")
        return True

    @property
    def queue(self) -> str:
        """Where the answers of stored requests go. Raises Unavailable while there is no store."""
        if not self._results.identity:
            raise Unavailable(f"no asynchronous requests and no idempotency keys now: {self._missing}")
        return self._core.broker.channels.stored(self._results.identity)

    async def close(self) -> None:
        """Stop to take; what is not stored yet comes back, to another gateway or later."""
        self.give_up()
        if self._consumer is not None:
            await self._consumer.stop()
        await self._tasks.cancel()

    async def drained(self, grace_s: float) -> None:
        """Wait until nobody waits, at most `grace_s`."""
        until = time.monotonic() + grace_s
        while self._waiting and time.monotonic() < until:  # noqa: ASYNC110 - as for the plain waits
            await asyncio.sleep(POLL_S)

    def give_up(self) -> None:
        """End every wait: the gateway stops, the requests go on."""
        self.stopping = True
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def send(
        self,
        request: Request,
        claim: KeyClaim | None,
        wait_s: float,
        gone: asyncio.Future[None] | None = None,
        shadow: Request | None = None,
    ) -> StoredRequest:
        """Store a request and send it, unless its claim is held by one that was sent before; wait for the answer.

        The wait ends with `gone`, too: the client has left. Raises KeyReused, QueueFull, and what the broker refused.
        """
        held = await self._held(request, claim, shadow)
        if held is None:
            async with self._expecting(request.uid, wait_s, gone) as answered:
                await self._publish(request, shadow)
                return StoredRequest(request.uid, await answered())
        if claim is not None and held.digest != claim.digest:
            raise KeyReused("this Idempotency-Key was given for another request: take a new key for a new request")
        async with self._expecting(held.uid, 0 if held.answer else wait_s, gone) as answered:
            if not held.answer and not held.published:
                await self._publish_again(request._replace(uid=held.uid, deadline_us=held.deadline_us))
            return StoredRequest(held.uid, held.answer or await answered(), again=True)

    async def fetch(self, uid: bytes, wait_s: float) -> StoredRequest:
        """Return how a request stands, after waiting for its answer. Raises NotFound and Gone."""
        held = await self._known(uid)
        waits = held.answer is None and self._has_room
        longest_s = self._left_s(held) + TIMER_S
        async with self._expecting(uid, min(wait_s, longest_s) if waits else 0.0) as answered:
            answer = held.answer or await answered()
        if answer is None and self._left_s(held) <= 0:
            raise ResultExpired(f"request {uid_text(uid)}: the time allowed was over before its answer was there")
        if answer is not None and answer.status in (Status.EXPIRED, Status.CANCELLED):
            raise ResultExpired(f"request {uid_text(uid)} was {answer.status.word}")
        return StoredRequest(uid, answer)

    async def cancel(self, uid: bytes) -> None:
        """Cancel a request that has no answer yet; again does no harm. Raises NotFound, Gone and AlreadyEnded."""
        deadline_us = (await self._known(uid)).deadline_us
        answer = Answer(uid, Status.CANCELLED, "", 0, None, 0, 0, 0, error_body("the client cancelled it"))
        if (await self._results.end([answer]))[0]:
            self._core.cancels.add(uid, deadline_us)
            self._resolve(answer)
            return
        now = await self._known(uid)
        if now.answer is None or now.answer.status is not Status.CANCELLED:
            raise AlreadyEnded(f"request {uid_text(uid)} has its answer: there is nothing to cancel")

    # -- on the way

    def _left_s(self, held: StoredResult) -> float:
        """Return how long an answer may still come: it may wait for a gateway that takes it into the store."""
        return max((held.deadline_us - now_us()) / 1e6 + LATE_S, LATE_S - self._taken_s)

    @property
    def _taken_s(self) -> float:
        """How long answers have been taken here."""
        return time.monotonic() - self._open_s

    async def _held(self, request: Request, claim: KeyClaim | None, shadow: Request | None) -> StoredResult | None:
        """Store a request, and return None; or return what holds its claim."""
        if self.stopping:
            raise Unavailable("this gateway stops: send the request to another one")
        if full := self._full():
            held = await self._results.claimed(claim) if claim is not None else None
            if held is None:
                error = QueueFull(full, retry_after_s=SWEEP_S)
                self._sending.refuse([request] if shadow is None else [request, shadow], error)
                raise error
            return held
        lapsed_us = now_us() - int(LATE_S * 1e6) if self._taken_s > LATE_S else 0
        return await self._results.begin(request.uid, request.deadline_us, claim, lapsed_us=lapsed_us)

    def _full(self) -> str:
        if self.used_bytes > self._core.settings.results_limit_bytes:
            return f"the results store is full: it holds {self.used_bytes} bytes"
        return "" if self._has_room else f"{self._core.settings.pending_limit} requests wait here already"

    @property
    def _has_room(self) -> bool:
        return len(self) < self._core.settings.pending_limit

    async def _publish_again(self, request: Request) -> None:
        """Publish a request that was stored before, and may not have been published: its gateway may have died."""
        publishing = self._publishing.get(request.uid)
        if publishing is not None:
            await asyncio.shield(publishing)
            return
        until = time.monotonic() + OTHERS_S
        while time.monotonic() < until:
            held = (await self._results.find([request.uid])).get(request.uid)
            if held is None or held.published or held.status is not None:
                return
            await asyncio.sleep(POLL_S)
        await self._publish(request)

    async def _publish(self, request: Request, shadow: Request | None = None) -> None:
        """Publish a request once in this process, however many wait for that; a client that leaves does not end it."""
        publishing = self._publishing.get(request.uid)
        if publishing is None:
            publishing = self._publishing[request.uid] = asyncio.create_task(self._until_safe(request, shadow))
            publishing.add_done_callback(lambda task: self._published(request.uid, task))
        await asyncio.shield(publishing)

    def _published(self, uid: bytes, task: asyncio.Task[None]) -> None:
        self._publishing.pop(uid, None)
        if not task.cancelled():
            task.exception()  # whoever waits has it

    async def _until_safe(self, request: Request, shadow: Request | None) -> None:
        """Return when the request is in its queue. One that may be there stays stored, for its answer."""
        try:
            async with asyncio.timeout(min(PUBLISH_S, (request.deadline_us - now_us()) / 1e6)):
                await self._sending.put_safely(request, shadow)
            await self._results.publish(request.uid)
        except TimeoutError as exc:
            raise Unreachable("the broker did not say in time that it has the request; it may still run") from exc
        except Unreachable:
            raise
        except QueueFull as exc:
            await self._results.withdraw(request.uid)
            raise QueueFull(str(exc), retry_after_s=await self._drain_s(request)) from exc
        except Exception:
            await self._results.withdraw(request.uid)
            raise

    async def _drain_s(self, request: Request) -> float:
        """Return how long the queue of a request takes to drain, at the measured rate of stored answers."""
        try:
            depth = await self._core.broker.depth(self._core.inputs(request.route.model, request.route.version))
        except TryAgain:
            return MEASURE_S
        return self._rate.drain_s(depth.requests)

    async def _known(self, uid: bytes) -> StoredResult:
        _ = self.queue
        held = (await self._results.find([uid])).get(uid)
        if held is None:
            raise NotFound(f"no request {uid_text(uid)} is known here: only asynchronous ones are, and not for ever")
        if held.dropped and held.status is None:
            raise ResultExpired(f"request {uid_text(uid)}: the time allowed was over before its answer was there")
        if held.dropped:
            raise ResultExpired(f"request {uid_text(uid)}: its answer was here, and is not kept any more")
        return held

    # -- answers come

    @asynccontextmanager
    async def _expecting(
        self, uid: bytes, wait_s: float, gone: asyncio.Future[None] | None = None
    ) -> AsyncIterator[_Answered]:
        """Listen for an answer from here on; the yielded function waits for it, at most `wait_s` or until `gone`."""
        if wait_s <= 0:
            yield _at_once
            return
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uid, set()).add(future)

        async def answered() -> Answer | None:
            ends = (future,) if gone is None else (future, gone)
            await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() and not future.cancelled() else None

        try:
            yield answered
        finally:
            future.cancel()
            self._waiting[uid].discard(future)
            if not self._waiting[uid]:
                del self._waiting[uid]

    def _resolve(self, answer: Answer) -> None:
        for future in self._waiting.get(answer.uid, ()):
            if not future.done():
                future.set_result(answer)

    async def _take(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(TAKE):
            answers: list[Answer] = []
            for delivery in deliveries:
                try:
                    answers += answers_in(delivery.message)
                except InvalidRequest:  # nobody but us may write here: what cannot be read is nobody's answer
                    self._core.pending.unclaimed += 1
            first = await self._store(answers)
            await self._core.broker.ack(deliveries)
            self._answered += sum(first)
            self._core.pending.unclaimed += len(first) - sum(first)
            for answer, is_first in zip(answers, first, strict=True):
                if is_first:
                    self._resolve(answer)

    async def _store(self, answers: Sequence[Answer]) -> list[bool]:
        """Store answers, however long that takes: until then they are not acked."""
        while True:
            try:
                return await self._results.end(answers)
            except Unreachable:
                await asyncio.sleep(PAUSE_S)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            uids = list(self._waiting)
            for at in range(0, len(uids), ASK_AT_ONCE):
                try:
                    found = await self._results.find(uids[at : at + ASK_AT_ONCE])
                except Unreachable:
                    break
                for held in found.values():
                    if held.answer is not None:
                        self._resolve(held.answer)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.used_bytes = await self._results.sweep()
            except Unreachable:
                continue

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_S)
            if self._answered:
                self._rate.observe(self._answered, MEASURE_S)
                self._answered = 0


async def _at_once() -> Answer | None:
    return None
