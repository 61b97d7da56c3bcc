"""Connections for subscriptions. RabbitMQ allows about two thousand channels each, and a subscription needs one."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.subscription import RabbitSubscription

SUBSCRIPTIONS = 1000  # for each connection: the remaining channels are for short calls


class ConnectionPool:
    """Connections that each serve a limited number of subscriptions; more are opened when needed."""

    def __init__(self, address: RabbitAddress, purpose: str, limit: int = SUBSCRIPTIONS) -> None:
        self._address = address
        self._purpose = purpose
        self._limit = limit
        self.first = RabbitConnection(address, purpose)
        self._used: dict[RabbitConnection, WeakSet[RabbitSubscription]] = {self.first: WeakSet()}

    def next(self) -> RabbitConnection:
        """Return a connection that has room for one more subscription."""
        for connection, subscriptions in self._used.items():
            if len(subscriptions) < self._limit:
                return connection
        connection = RabbitConnection(self._address, self._purpose)
        self._used[connection] = WeakSet()
        return connection

    def note(self, connection: RabbitConnection, subscription: RabbitSubscription) -> None:
        """Count a subscription until it is garbage collected; its task holds a running one."""
        self._used[connection].add(subscription)

    def subscriptions(self) -> list[RabbitSubscription]:
        """Return all subscriptions."""
        return [subscription for found in self._used.values() for subscription in found]

    async def close(self, timeout_s: float) -> None:
        """Close all connections."""
        await asyncio.gather(*[connection.close(timeout_s) for connection in self._used])
