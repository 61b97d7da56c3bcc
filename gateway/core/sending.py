"""Publishes requests to the queues of their models, and handles the outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.delivery.outbox import Outbox
from broker.errors import Cancelled, MillraceError, QueueFull, TooLarge, Unavailable, Unreachable
from broker.messages import Outcome, Reason, Settlement
from broker.protocol.header import BodyForm, Request, pack_route, pack_ticket
from gateway.core.core import Core
from router.service.shadows import ShadowSender


class RequestSender:
    """Bundles requests. A request that the broker refuses ends here: its wait fails, and its row has the error."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._outbox: Outbox[Request] = Outbox(core.broker, self._settled, patience_s=core.settings.publish_patience_s)
        self._watched: dict[bytes, asyncio.Future[None]] = {}
        self._shadows = ShadowSender(core.broker, core.rows, core.max_batch, limit=core.settings.shadows_limit)
        self._shadowed: dict[bytes, Request] = {}

    def put(self, request: Request, shadow: Request | None = None) -> None:
        """Publish a request; its wait fails if the broker refuses it. Its shadow follows once the request is safe."""
        if shadow is not None:
            self._shadowed[request.uid] = shadow
        route = request.route
        self._outbox.put(
            self._core.inputs(route.model, route.version),
            BodyForm.BUNDLE,
            pack_route(route),
            pack_ticket(request, len(request.body)),
            request.body,
            request,
            limit=self._core.max_batch(route.model, route.version),
        )

    async def put_safely(self, request: Request, shadow: Request | None = None) -> None:
        """Publish a request and wait for the confirm. Raises the refusal, or Unreachable if the outcome is unknown."""
        safe = self._watched[request.uid] = asyncio.get_running_loop().create_future()
        try:
            self.put(request, shadow)
            await safe
        finally:
            self._watched.pop(request.uid, None)

    def refuse(self, requests: Sequence[Request], error: MillraceError) -> None:
        """Write the rows of requests that end in the gateway."""
        self._core.rows.refuse(requests, error)

    async def drain(self) -> None:
        """Wait until every accepted request is in its queue."""
        await self._outbox.drain()

    async def drain_shadows(self) -> None:
        """Wait until the outcome of every shadow is known."""
        await self._shadows.drain()

    def _settled(self, requests: Sequence[Request], outcome: Outcome) -> None:
        """Handle an outcome of a publish. If it is unknown, the wait goes on: the broker may have the request."""
        error = self._error(outcome)
        if self._watched:
            for request in requests:
                self._end_watch(request.uid, outcome, error)
        if error is not None:
            for request in requests:
                self._core.pending.refuse(request, error)
            self.refuse(requests, error)
        if self._shadowed:
            self._send_shadows(requests, outcome)

    def _send_shadows(self, requests: Sequence[Request], outcome: Outcome) -> None:
        """Send the shadows of safe requests; other shadows end as cancelled."""
        shadows = [self._shadowed.pop(request.uid) for request in requests if request.uid in self._shadowed]
        if outcome.safe:
            self._shadows.put(shadows)
        else:
            self._shadows.drop(shadows, Cancelled(f"the request that it shadows is not known to be safe ({outcome})"))

    def _end_watch(self, uid: bytes, outcome: Outcome, error: MillraceError | None) -> None:
        watched = self._watched.get(uid)
        if watched is None or watched.done():
            return
        if outcome.safe:
            watched.set_result(None)
        else:
            watched.set_exception(error or Unreachable("the broker's connection was lost: the request may still run"))

    def _error(self, outcome: Outcome) -> MillraceError | None:
        if outcome.safe or outcome.settlement is Settlement.UNKNOWN:
            return None
        if outcome.is_full:
            stopped = self._core.broker.stopped_by if outcome.reason is Reason.STOPPED else ""
            return QueueFull(
                stopped or f"the queue of this model: {outcome}", retry_after_s=self._core.pending.drain_s()
            )
        if outcome.reason is Reason.NO_QUEUE:
            return Unavailable("the queue of this model does not exist yet: is its processor starting?")
        return TooLarge("the request is larger than the broker allows")
