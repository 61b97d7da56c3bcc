"""Acks a delivery after all of its answers and rows have been confirmed."""

from __future__ import annotations

import asyncio
import logging

from broker.base import Broker
from broker.errors import TryAgain
from broker.messages import Delivery
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks

logger = logging.getLogger(__name__)


class PendingAck:
    """One delivery, and the number of confirms that it waits for: an answer and a row for each of its requests."""

    __slots__ = ("_tracker", "delivery", "left")

    def __init__(self, tracker: AckTracker, delivery: Delivery, left: int) -> None:
        self._tracker = tracker
        self.delivery = delivery
        self.left = left

    def settle(self) -> None:
        """Count one confirm; the last one acks the delivery, together with others of this turn of the event loop."""
        self.left -= 1
        if self.left == 0:
            self._tracker.done(self.delivery)


class AckTracker:
    """Acks the deliveries of a processor in batches: one call in each turn of the event loop."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._ready: list[Delivery] = []
        self.held = 0

    def hold(self, delivery: Delivery, confirms: int) -> PendingAck:
        """Ack `delivery` after `confirms` calls of `settle` on the returned object."""
        self.held += 1
        return PendingAck(self, delivery, confirms)

    def done(self, delivery: Delivery) -> None:
        """Ack `delivery` at the end of this turn."""
        self.held -= 1
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready.append(delivery)

    def abandon(self) -> None:
        """Stop tracking one delivery that will be buried or requeued instead of acked."""
        self.held -= 1

    async def drain(self) -> None:
        """Wait until all acks are committed."""
        while self._ready:
            self._flush()
        await self._tasks.drain()
        await self._broker.flush()

    def _flush(self) -> None:
        if self._ready:
            ready, self._ready = self._ready, []
            self._tasks.spawn(self._ack(ready), "ack")

    async def _ack(self, deliveries: list[Delivery]) -> None:
        """Ack, and try again while the broker does not accept it, such as on a full disk."""
        while True:
            try:
                await self._broker.ack(deliveries)
            except TryAgain as exc:
                logger.warning("%d deliveries cannot be acked now: %s; trying again", len(deliveries), exc)
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return
