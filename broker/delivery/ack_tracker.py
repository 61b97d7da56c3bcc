"""When a delivery may be acked: once all that depends on it is settled, and not before."""

from __future__ import annotations

import asyncio
import logging

from broker.base import Broker
from broker.errors import TryAgain
from broker.messages import Delivery
from broker.support.tasks import Tasks

log = logging.getLogger(__name__)

PAUSE_S = 1.0


class PendingAck:
    """One delivery and how many things it still waits for: an answer and a row for each request in it."""

    __slots__ = ("_ledger", "delivery", "left")

    def __init__(self, ledger: AckTracker, delivery: Delivery, left: int) -> None:
        self._ledger = ledger
        self.delivery = delivery
        self.left = left

    def settle(self) -> None:
        """Count one thing as done; the last one acks the delivery, together with others of this turn."""
        self.left -= 1
        if self.left == 0:
            self._ledger.done(self.delivery)


class AckTracker:
    """Acks the deliveries of a processor in batches: one call a turn of the loop."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._ready: list[Delivery] = []
        self.held = 0

    def hold(self, delivery: Delivery, things: int) -> PendingAck:
        """Start to wait for `things` before `delivery` is acked."""
        self.held += 1
        return PendingAck(self, delivery, things)

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
        """Wait until what is done is acked, for good."""
        while self._ready:
            self._flush()
        await self._tasks.drain()
        await self._broker.flush()

    def _flush(self) -> None:
        if self._ready:
            ready, self._ready = self._ready, []
            self._tasks.spawn(self._ack(ready), "ack")

    async def _ack(self, deliveries: list[Delivery]) -> None:
        """Ack until the broker has taken it: a full disk, or a lock that another process holds, ends nobody."""
        while True:
            try:
                await self._broker.ack(deliveries)
            except TryAgain as exc:
                log.warning("%d deliveries cannot be acked now: %s; trying again", len(deliveries), exc)
                await asyncio.sleep(PAUSE_S)
            else:
                return
