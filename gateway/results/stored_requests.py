"""Requests that are stored: asynchronous ones, those that may become so, and those with an idempotency key.

Their answers arrive on a queue of the results store. Any gateway that shares the store takes them from there into the
store, and the first answer counts. So a stored request survives the gateway that accepted it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from broker.errors import NotFound, QueueFull, Unavailable
from broker.protocol.answers import error_body
from broker.protocol.header import Answer, Request, Status
from broker.protocol.ids import now_us, uid_text
from gateway.core.core import Core
from gateway.core.sending import RequestSender
from gateway.results.intake import AnswerIntake
from gateway.results.publisher import StoredRequestPublisher
from gateway.results.session import StoreSession
from gateway.results.store import KeyClaim, ResultsStore, StoredResult
from gateway.results.waits import AnswerWaits
from gateway.transport.errors import AlreadyEnded, KeyReused, ResultExpired

TIMER_S = 0.002  # uvloop counts whole milliseconds, so a timer may fire early


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """The state of a stored request; `answer` is None while it is pending, `replayed` means a repeat of a request."""

    uid: bytes
    answer: Answer | None
    replayed: bool = False


class StoredRequests:
    """Stores requests, sends them, and waits for their answers as long as the client asks for."""

    def __init__(self, core: Core, results: ResultsStore, sending: RequestSender) -> None:
        self._core = core
        self._results = results
        self._sending = sending
        self.waits = AnswerWaits()
        self._intake = AnswerIntake(core, results, self.waits)
        self._session = StoreSession(
            core.broker, results, on_open=self._intake.start, sweep_s=core.settings.results_sweep_s
        )
        self._publisher = StoredRequestPublisher(results, sending, drain_s=self._intake.drain_s)

    @property
    def queue(self) -> str:
        """The queue for the answers of stored requests. Raises Unavailable while the store is not open."""
        return self._session.queue

    @property
    def used_bytes(self) -> int:
        """The size of the results store."""
        return self._session.used_bytes

    async def open(self) -> None:
        """Open the store and start to take answers into it."""
        await self._session.open()

    async def close(self) -> None:
        """End every wait and stop taking answers."""
        self.waits.give_up()
        await self._intake.close()
        await self._session.close()

    async def send(
        self,
        request: Request,
        claim: KeyClaim | None,
        wait_s: float,
        client_disconnected: asyncio.Future[None] | None = None,
        shadow: Request | None = None,
    ) -> StoredRequest:
        """Store a request, send it, and wait for its answer; a request that already holds the claim is not sent again.

        The wait ends after `wait_s` seconds, or when the client disconnects. Raises KeyReused, QueueFull, and the
        error with which the broker refused the request.
        """
        holder = await self._store(request, claim, shadow)
        if holder is None:
            async with self.waits.expect(request.uid, wait_s, client_disconnected) as answer:
                await self._publisher.publish(request, shadow)
                return StoredRequest(uid=request.uid, answer=await answer())
        if claim is not None and holder.digest != claim.digest:
            raise KeyReused("this Idempotency-Key was given for another request: take a new key for a new request")
        async with self.waits.expect(holder.uid, 0 if holder.answer else wait_s, client_disconnected) as answer:
            if not holder.answer and not holder.published:
                again = request._replace(uid=holder.uid, deadline_us=holder.deadline_us)
                await self._publisher.publish_again(again)
            return StoredRequest(uid=holder.uid, answer=holder.answer or await answer(), replayed=True)

    async def fetch(self, uid: bytes, wait_s: float) -> StoredRequest:
        """Return the state of a request, after at most `wait_s` seconds. Raises NotFound and ResultExpired."""
        stored = await self._find(uid)
        may_wait = stored.answer is None and self._has_room
        longest_s = self._left_s(stored) + TIMER_S
        async with self.waits.expect(uid, min(wait_s, longest_s) if may_wait else 0.0) as wait:
            answer = stored.answer or await wait()
        if answer is None and self._left_s(stored) <= 0:
            raise ResultExpired(f"request {uid_text(uid)}: the time allowed passed before its answer arrived")
        if answer is not None and answer.status in (Status.EXPIRED, Status.CANCELLED):
            raise ResultExpired(f"request {uid_text(uid)} was {answer.status.word}")
        return StoredRequest(uid=uid, answer=answer)

    async def cancel(self, uid: bytes) -> None:
        """Cancel a request that has no answer yet; a second cancel changes nothing.

        Raises NotFound, ResultExpired and AlreadyEnded.
        """
        deadline_us = (await self._find(uid)).deadline_us
        answer = Answer(uid=uid, status=Status.CANCELLED, body=error_body("the client cancelled it"))
        if (await self._results.end([answer]))[0]:
            self._core.cancels.add(uid, deadline_us)
            self.waits.resolve(answer)
            return
        now = await self._find(uid)
        if now.answer is None or now.answer.status is not Status.CANCELLED:
            raise AlreadyEnded(f"request {uid_text(uid)} has its answer: it cannot be cancelled")

    def _left_s(self, stored: StoredResult) -> float:
        """Seconds in which an answer may still arrive; it may wait in the queue for a gateway that opens the store."""
        late_s = self._core.settings.results_late_s
        return max((stored.deadline_us - now_us()) / 1e6 + late_s, late_s - self._session.open_for_s)

    async def _store(self, request: Request, claim: KeyClaim | None, shadow: Request | None) -> StoredResult | None:
        """Store a request and return None; or return the request that already holds its claim."""
        if self.waits.stopping:
            raise Unavailable("this gateway stops: send the request to another one")
        if reason := self._refusal():
            holder = await self._results.claimed(claim) if claim is not None else None
            if holder is None:
                error = QueueFull(reason, retry_after_s=self._core.settings.results_sweep_s)
                self._sending.refuse([request] if shadow is None else [request, shadow], error)
                raise error
            return holder
        late_s = self._core.settings.results_late_s
        lapsed_us = now_us() - int(late_s * 1e6) if self._session.open_for_s > late_s else 0
        return await self._results.begin(request.uid, request.deadline_us, claim, lapsed_us=lapsed_us)

    def _refusal(self) -> str:
        """The reason why no request can be stored now; empty if one can."""
        if self.used_bytes > self._core.settings.results_limit_bytes:
            return f"the results store is full: it holds {self.used_bytes} bytes"
        return "" if self._has_room else f"{self._core.settings.pending_limit} requests wait here already"

    @property
    def _has_room(self) -> bool:
        return len(self.waits) < self._core.settings.pending_limit

    async def _find(self, uid: bytes) -> StoredResult:
        _ = self.queue  # raises Unavailable while the store is not open
        stored = (await self._results.find([uid])).get(uid)
        if stored is None:
            raise NotFound(f"no request {uid_text(uid)} is stored here: only asynchronous ones are, for a limited time")
        if stored.dropped and stored.status is None:
            raise ResultExpired(f"request {uid_text(uid)}: the time allowed passed before its answer arrived")
        if stored.dropped:
            raise ResultExpired(f"request {uid_text(uid)}: its answer is no longer kept")
        return stored
