"""Sends shadows of requests, without any effect on the requests themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from broker.base import Broker
from broker.delivery.outbox import Outbox
from broker.delivery.prediction_log import PredictionLogWriter
from broker.errors import Failed, MillraceError, QueueFull, TooLarge, Unavailable, Unreachable
from broker.messages import UNKNOWN, Message, Outcome, Reason
from broker.protocol.header import BodyForm, Request, pack_route, pack_ticket

SHADOWS_LIMIT = 5000  # shadows being sent; further ones are dropped
PATIENCE_S = 2.0  # for a broker that is away; a full queue is tried once
SHADOWS_DRAIN_S = 5.0

logger = logging.getLogger(__name__)


class ShadowSender:
    """Publishes shadows from an outbox of its own. A shadow that cannot be sent only leaves a row."""

    def __init__(
        self,
        broker: Broker,
        rows: PredictionLogWriter,
        max_batch: Callable[[str, int], int],
        *,
        limit: int = SHADOWS_LIMIT,
        drain_s: float = SHADOWS_DRAIN_S,
    ) -> None:
        self._limit = limit
        self._drain_s = drain_s
        self._inputs = broker.channels.inputs
        self._rows = rows
        self._max_batch = max_batch
        self._outbox: Outbox[Request] = Outbox(_Guarded(broker), self._settled, patience_s=PATIENCE_S)
        self._sending: dict[bytes, Request] = {}

    def put(self, shadows: Sequence[Request]) -> None:
        """Send shadows; their requests are safe already."""
        room = max(0, self._limit - len(self._sending))
        for shadow in shadows[:room]:
            self._sending[shadow.uid] = shadow
            route = shadow.route
            self._outbox.put(
                self._inputs(route.model, route.version),
                BodyForm.BUNDLE,
                pack_route(route),
                pack_ticket(shadow, len(shadow.body)),
                shadow.body,
                shadow,
                limit=self._max_batch(route.model, route.version),
            )
        if shadows[room:]:
            self.drop(shadows[room:], QueueFull(f"{self._limit} shadows are on their way already"))

    def drop(self, shadows: Sequence[Request], error: MillraceError) -> None:
        """Write the rows of shadows that are not sent."""
        self._rows.refuse(shadows, error)

    async def drain(self) -> None:
        """Wait until all shadows are sent or dropped; after `drain_s` drop the rest."""
        try:
            async with asyncio.timeout(self._drain_s):
                await self._outbox.drain()
        except TimeoutError:
            self.drop(list(self._sending.values()), _error(UNKNOWN))
            self._sending.clear()

    def _settled(self, shadows: Sequence[Request], outcome: Outcome) -> None:
        """Handle the outcome of a publish. If a shadow arrives in spite of an error, its first row counts."""
        for shadow in shadows:
            self._sending.pop(shadow.uid, None)
        if not outcome.safe:
            self.drop(shadows, _error(outcome))


class _Guarded:
    """A broker whose unexpected errors become unknown outcomes, so that the outbox goes on."""

    blocked = False

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        try:
            return await self._broker.publish(messages)
        except Unreachable:
            raise
        except Exception:  # an error of a shadow must not affect any request
            logger.exception("%d bundles of shadows could not be published", len(messages))
            return [UNKNOWN] * len(messages)


def _error(outcome: Outcome) -> MillraceError:
    if outcome.is_full:
        return QueueFull(f"the queue of the shadow's model: {outcome}")
    if outcome.reason is Reason.NO_QUEUE:
        return Unavailable("the queue of the shadow's model is not there")
    if outcome.reason is Reason.TOO_LARGE:
        return TooLarge("the request is larger than the broker takes")
    return Failed("the broker did not confirm the shadow in time")
