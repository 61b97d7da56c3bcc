"""Moves whole deliveries: to the retry queue, or to the dead queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from broker.base import Broker
from broker.errors import InvalidRequest, MillraceError, TryAgain
from broker.messages import Delivery, Outcome
from broker.protocol.bundle import requests_in, single
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks
from processors.metrics import ProcessorMetrics


class DeliveryTransfer:
    """Moves deliveries of one queue. A delivery whose move fails is requeued after a pause, and moved again then."""

    def __init__(self, broker: Broker, queue: str, metrics: ProcessorMetrics) -> None:
        self._broker = broker
        self._retry_queue = broker.channels.retry(queue)
        self._metrics = metrics
        self._tasks = Tasks()

    def start_retry(self, deliveries: Sequence[Delivery]) -> None:
        """Start to move redelivered messages to the retry queue, one message per request."""
        self._metrics.came_back.inc(len(deliveries))
        self._tasks.spawn(self._retry_all(deliveries), "to-retry-queue")

    def start_burial(self, delivery: Delivery, error: MillraceError) -> None:
        """Start to bury a delivery that cannot be read."""
        self._tasks.spawn(self._bury_unreadable(delivery, error), "bury")

    async def bury(self, delivery: Delivery, *, reason: str, attempts: int, error: MillraceError) -> None:
        """Move a delivery to the dead queue with its original bytes."""
        self._metrics.buried.labels(reason).inc()
        burial = self._broker.bury(delivery, reason=reason, attempts=attempts, error=str(error))
        await self._or_requeue(delivery, burial)

    async def drain(self) -> None:
        """Wait until every move that was started has ended."""
        await self._tasks.drain()

    async def _retry_all(self, deliveries: Sequence[Delivery]) -> None:
        # The attempts of the requests stay as they are: a redelivery alone is no attempt, it may only have waited.
        for delivery in deliveries:
            try:
                requests = requests_in(delivery.message)
            except InvalidRequest as exc:
                await self._bury_unreadable(delivery, exc)
                continue
            messages = [single(self._retry_queue, request) for request in requests]
            await self._or_requeue(delivery, self._broker.forward([delivery], messages))

    async def _bury_unreadable(self, delivery: Delivery, error: MillraceError) -> None:
        await self.bury(delivery, reason="unreadable", attempts=delivery.came_back, error=error)

    async def _or_requeue(self, delivery: Delivery, move: Awaitable[Sequence[Outcome]]) -> None:
        try:
            if all(outcome.safe for outcome in await move):
                return
        except TryAgain:
            pass
        await asyncio.sleep(TRY_AGAIN_S)
        await self._broker.requeue([delivery])
