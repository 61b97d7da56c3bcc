"""The port on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from broker.base import Broker, Consumer, Reader, Since
from broker.channels import Channels, Limits
from broker.messages import Delivery, Depth, Message, Outcome
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.consumer import QueueConsumer, QueueSubscription
from broker.rabbitmq.log import StreamReader, StreamSubscription, end_of
from broker.rabbitmq.migration import difference, migrate
from broker.rabbitmq.pool import SUBSCRIPTIONS, ConnectionPool
from broker.rabbitmq.publisher import RabbitPublisher
from broker.rabbitmq.subscription import Session
from broker.rabbitmq.topology import RabbitTopology
from broker.support.fill_ratio import FillRatio

TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0


class RabbitBroker(Broker):
    """Two connections: one only publishes, because a broker short of memory stops reading publishers.

    Everything else goes over the other one: takes, acks, logs, and also declarations and depths, which are needed most
    while publishing is blocked. With very many subscriptions there are more of that kind.
    """

    def __init__(
        self, url: str, channels: Channels, *, timeout_s: float = TIMEOUT_S, subscriptions: int = SUBSCRIPTIONS
    ) -> None:
        """`subscriptions` is how many of them share a connection."""
        super().__init__(channels)
        self._address = RabbitAddress.of(url)
        self._timeout_s = timeout_s
        self._publishing = RabbitConnection(self._address, "publishes")
        self._consuming = ConnectionPool(self._address, "consumes", subscriptions)
        self._topology = RabbitTopology(self._consuming.first, channels, timeout_s)
        self._publisher = RabbitPublisher(self._publishing, self._topology, channels, timeout_s)
        self._fill = FillRatio()

    def __repr__(self) -> str:
        return f"RabbitBroker({self._address.shown!r}, prefix={self.channels.prefix!r})"

    async def open(self) -> None:
        """Reach the broker."""
        await self.ping()
        self.upkeep.start()

    async def close(self) -> None:
        """Wait for outstanding confirms, give back what is held, close both connections."""
        await self.upkeep.stop()
        await self._publisher.flush(CLOSE_TIMEOUT_S)
        await asyncio.gather(*[subscription.close() for subscription in self._consuming.subscriptions()])
        await asyncio.gather(self._publishing.close(CLOSE_TIMEOUT_S), self._consuming.close(CLOSE_TIMEOUT_S))

    async def ping(self) -> None:
        """Open a channel, and close it."""
        async with await self._topology.channel("ping"):
            pass

    @property
    def stopped_by(self) -> str:
        """Return which alarm of the broker's keeps our publishes out."""
        reason = self._publishing.blocked
        return f"the broker at {self._address.shown} takes no messages now: it is {reason}" if reason else ""

    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Look for channels, and forget that those that are gone were declared."""
        return await self._topology.missing(channels)

    async def difference(self, queue: str, limits: Limits) -> str:
        """Compare a queue's arguments, which RabbitMQ never changes."""
        return await difference(self._topology, self, queue, limits)

    async def migrate(self, queue: str, limits: Limits, moved: Callable[[int], None]) -> int:
        """Move a queue's messages aside, delete it, and move them back into one with other arguments."""
        return await migrate(self._topology, self, queue, limits, moved)

    async def _make(self, channel: str, limits: Limits) -> None:
        await self._topology.declare(channel, limits)

    async def _remove(self, channel: str) -> None:
        await self._topology.delete(channel)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish and wait for the confirms."""
        if not messages:
            return []
        self._fill.observe(messages)
        outcomes = await self._publisher.publish(messages)
        self._observe(messages, outcomes)
        return outcomes

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Subscribe; a queue that is not there yet is waited for."""
        connection = self._consuming.next()
        subscription = QueueSubscription(connection, self.upkeep, self._topology, queue, prefetch, self._timeout_s)
        self._consuming.note(connection, subscription)
        return QueueConsumer(queue, subscription, self._fill)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good."""
        for session, tags in _by_session(deliveries).items():
            session.ack(tags)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give back."""
        for session, tags in _by_session(deliveries).items():
            session.requeue(tags)

    def read(self, log: str, start: int | Since) -> Reader:
        """Read a stream; a log that is not there yet is waited for."""
        connection = self._consuming.next()
        subscription = StreamSubscription(connection, self.upkeep, self._topology, log, start, self._timeout_s)
        self._consuming.note(connection, subscription)
        return StreamReader(log, subscription, self._topology, self._timeout_s)

    async def end(self, log: str) -> int:
        """Return the offset that the next record will have."""
        return await end_of(self._topology, log, self._timeout_s)

    async def depth(self, queue: str) -> Depth:
        """Ask for the ready messages, and estimate the requests in them."""
        messages = await self._topology.ready(queue)
        return Depth(messages, self._fill.requests(queue, messages))


def _by_session(deliveries: Sequence[Delivery]) -> dict[Session, list[int]]:
    sessions: dict[Session, list[int]] = {}
    for delivery in deliveries:
        if isinstance(delivery.consumer, Session):
            sessions.setdefault(delivery.consumer, []).append(delivery.tag)
    return sessions
