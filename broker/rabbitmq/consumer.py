"""Consumes a queue."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.base import Consumer
from broker.messages import Delivery
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.properties import unpack_message
from broker.rabbitmq.session import Arrival
from broker.rabbitmq.subscription import SETTLE_S, RabbitSubscription
from broker.rabbitmq.topology import RabbitTopology
from broker.support.fill_ratio import FillRatio
from broker.support.upkeep import Upkeep


class QueueSubscription(RabbitSubscription):
    """A subscription to a queue."""

    def __init__(
        self,
        connection: RabbitConnection,
        upkeep: Upkeep,
        topology: RabbitTopology,
        queue: str,
        prefetch: int,
        timeout_s: float,
    ) -> None:
        self._topology = topology
        super().__init__(connection, upkeep, queue, prefetch, timeout_s)

    async def _prepare(self) -> None:
        """Wait until a missing queue exists and is ready.

        RabbitMQ 3.10 closes the connection of a client that consumes from a quorum queue while it is being made.
        """
        if self._was_missing:
            if not await self._topology.exists(self._queue):
                raise NoQueue(f"the queue {self._queue} does not exist")
            await asyncio.sleep(SETTLE_S)

    def _arguments(self) -> dict[str, Any]:
        return {}


class QueueConsumer(Consumer):
    """Takes the messages that its subscription has buffered."""

    def __init__(self, queue: str, subscription: QueueSubscription, fill: FillRatio) -> None:
        self.queue = queue
        self.subscription = subscription
        self._fill = fill

    @property
    def trouble(self) -> str:
        return self.subscription.trouble

    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` messages; raises the error that ended the subscription."""
        if not await self.subscription.wait():
            return []
        taken = [self._delivery(arrival) for arrival in self.subscription.pop(limit)]
        self._fill.observe(delivery.message for delivery in taken)
        return taken

    async def stop(self) -> None:
        await self.subscription.stop()

    def resize(self, prefetch: int) -> None:
        """Change the prefetch soon; the deliveries that the former prefetch requested still arrive."""
        self.subscription.resize(prefetch)

    def _delivery(self, arrival: Arrival) -> Delivery:
        message, count = unpack_message(self.queue, arrival.properties, arrival.body)
        # A publisher can forge the count, but not the flag.
        came_back = max(1, count) if arrival.came_back else 0
        return Delivery(message, arrival.tag, came_back, arrival.session)
