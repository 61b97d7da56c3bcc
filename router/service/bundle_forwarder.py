"""Forwards bundles of requests to the queue of a model, until they are safe there or have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from broker.base import Broker
from broker.errors import Expired, Failed, TooLarge, TryAgain
from broker.messages import UNKNOWN, Outcome, Reason
from broker.protocol.bundle import bundle
from broker.protocol.header import BodyForm, Route, pack_route
from broker.protocol.ids import is_over, now_us
from broker.support.backoff import Backoff
from router.service.refusals import Refusals
from router.service.shadows import ShadowSender
from router.service.taken_request import TakenRequest

logger = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0


class BundleForwarder:
    """Publishes a bundle and acks its sources in one step, and repeats that until it succeeds."""

    def __init__(self, broker: Broker, endpoint: str, *, refusals: Refusals, shadows: ShadowSender) -> None:
        self._broker = broker
        self._endpoint = endpoint
        self._refusals = refusals
        self._shadows = shadows
        self._stopping = False

    def stop(self) -> None:
        """Do not repeat failed attempts any more: the unacked sources go to another router."""
        self._stopping = True

    async def forward(self, queue: str, route: Route, items: list[TakenRequest]) -> int:
        """Forward a bundle; return the number of requests that are safe in the queue.

        An unforeseen error ends its requests as `failed`, and never the router.
        """
        try:
            return await self._until_safe(queue, route, items)
        except Exception:  # one endpoint's declaration or one request must not end the router for all others
            logger.exception("endpoint %s: %d requests could not be forwarded to %s", self._endpoint, len(items), queue)
            self._refusals.end(items, Failed(f"the router could not forward it to {route.model}@{route.version}"))
            return 0

    def drop_expired(self, items: list[TakenRequest]) -> list[TakenRequest]:
        """End the requests whose deadline passed before the queue had room; return the others."""
        return self._in_time(items, "its model's queue had no room for as long as was allowed")

    async def _until_safe(self, queue: str, route: Route, items: list[TakenRequest]) -> int:
        backoff = Backoff(first_s=PAUSE_FIRST_S, longest_s=PAUSE_LONGEST_S)
        while items:
            outcome = await self._attempt(queue, route, items)
            if outcome.safe:
                self._shadows.put([item.shadow for item in items if item.shadow])
                return len(items)
            if outcome.reason is Reason.TOO_LARGE:
                for item in items:
                    size = len(item.request.body)
                    self._refusals.end([item], TooLarge(f"{size} bytes are more than the broker takes"))
                break
            if self._stopping:
                break
            await asyncio.sleep(backoff.next_s())
            # In place: `forward` ends the rest if this fails.
            items[:] = self._in_time(items, f"its model's queue took nothing for as long as was allowed ({outcome})")
        return 0

    def _in_time(self, items: list[TakenRequest], why: str) -> list[TakenRequest]:
        now = now_us()
        late = [item for item in items if is_over(item.request.deadline_us, now)]
        if not late:
            return items
        self._refusals.end(late, Expired(why))
        return [item for item in items if not is_over(item.request.deadline_us, now)]

    async def _attempt(self, queue: str, route: Route, items: Sequence[TakenRequest]) -> Outcome:
        parts: list[bytes | memoryview] = []
        for item in items:
            parts.append(item.ticket)
            parts.append(item.request.body)
        message = bundle(queue, BodyForm.BUNDLE, pack_route(route), parts, len(items))
        try:
            return (await self._broker.forward([item.delivery for item in items], [message]))[0]
        except TryAgain:
            return UNKNOWN
