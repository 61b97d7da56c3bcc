"""Puts requests into the queues of their models, and hears what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.errors import MillraceError, QueueFull, TooLarge, Unavailable, Unreachable
from broker.events import Ended
from broker.header import BY_WORD, Form, Request, pack_route, pack_ticket
from broker.ids import now_us
from broker.messages import Outcome, Reason, Verdict
from broker.outbox import Outbox
from gateway.core import Core


class Sending:
    """Bundles requests. One that the broker refuses ends here: whoever waits for it hears why, and its row says so."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._outbox: Outbox[Request] = Outbox(core.broker, self._settled, patience_s=core.settings.publish_patience_s)
        self._watched: dict[bytes, asyncio.Future[None]] = {}

    def put(self, request: Request) -> None:
        """Send a request on its way; its wait fails if the broker refuses it."""
        route = request.route
        self._outbox.put(
            self._core.inputs(route.model, route.version), Form.BUNDLE, pack_route(route),
            pack_ticket(request, len(request.body)), request.body, request,
            limit=self._core.max_batch(route.model, route.version),
        )  # fmt: skip

    async def put_safely(self, request: Request) -> None:
        """Return when the broker has the request; raises what it was refused with, Unreachable if nobody knows."""
        safe = self._watched[request.uid] = asyncio.get_running_loop().create_future()
        try:
            self.put(request)
            await safe
        finally:
            self._watched.pop(request.uid, None)

    def refuse(self, requests: Sequence[Request], error: MillraceError) -> None:
        """Write the rows of requests that end at the door."""
        status, now = BY_WORD[error.status], now_us()
        for request in requests:
            ended = Ended([request], [1], [0], status, str(error), published_us=now)
            self._core.rows.add(request.route.endpoint, None, ended, [], None, None)

    async def drain(self) -> None:
        """Wait until what was accepted is in its queue."""
        await self._outbox.drain()

    def _settled(self, requests: Sequence[Request], outcome: Outcome) -> None:
        """Hear what became of a publish. A safe one is waited for; an unknown one may have been taken, so it is too."""
        error = self._error(outcome)
        if self._watched:
            for request in requests:
                self._tell(request.uid, outcome, error)
        if error is not None:
            for request in requests:
                self._core.pending.fail(request.uid, error)
            self.refuse(requests, error)

    def _tell(self, uid: bytes, outcome: Outcome, error: MillraceError | None) -> None:
        watched = self._watched.get(uid)
        if watched is None or watched.done():
            return
        if outcome.safe:
            watched.set_result(None)
        else:
            watched.set_exception(error or Unreachable("the broker was lost in between: the request may still run"))

    def _error(self, outcome: Outcome) -> MillraceError | None:
        if outcome.safe or outcome.verdict is Verdict.UNKNOWN:
            return None
        if outcome.reason is Reason.FULL:
            return QueueFull("the queue of this model is full", retry_after_s=self._core.pending.drain_s())
        if outcome.reason is Reason.NO_QUEUE:
            return Unavailable("the queue of this model is not there yet: is its processor starting?")
        return TooLarge("the request is larger than the broker takes")
