"""The RabbitMQ adapter."""

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
from broker.rabbitmq.session import Session
from broker.rabbitmq.topology import RabbitTopology
from broker.support.fill_ratio import FillRatio

TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0


class RabbitBroker(Broker):
    """One connection for publishing, and another one for everything else.

    A broker with a memory alarm stops reading from publishers. Takes, acks, logs, declarations and depths go over the
    other connection, so that they work meanwhile. For very many subscriptions there are more connections of that kind.
    """

    def __init__(
        self, url: str, channels: Channels, *, timeout_s: float = TIMEOUT_S, subscriptions: int = SUBSCRIPTIONS
    ) -> None:
        """`subscriptions` is the number of subscriptions that share a connection."""
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
        await self.ping()
        self.upkeep.start()

    async def close(self) -> None:
        await self.upkeep.stop()
        await self._publisher.flush(CLOSE_TIMEOUT_S)
        await asyncio.gather(*[subscription.close() for subscription in self._consuming.subscriptions()])
        await asyncio.gather(self._publishing.close(CLOSE_TIMEOUT_S), self._consuming.close(CLOSE_TIMEOUT_S))

    async def ping(self) -> None:
        async with await self._topology.channel("ping"):
            pass

    @property
    def stopped_by(self) -> str:
        reason = self._publishing.blocked
        return f"the broker at {self._address.shown} takes no messages now: it is {reason}" if reason else ""

    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Return those of these channels that do not exist; they are declared again the next time."""
        return await self._topology.missing(channels)

    async def difference(self, queue: str, limits: Limits) -> str:
        """Compare a queue's arguments, which RabbitMQ cannot change."""
        return await difference(self._topology, self, queue, limits)

    async def migrate(self, queue: str, limits: Limits, moved: Callable[[int], None]) -> int:
        """Move the messages aside, delete the queue, and move them into a new one with the wanted arguments."""
        return await migrate(self._topology, self, queue, limits, moved)

    async def _make(self, channel: str, limits: Limits) -> None:
        await self._topology.declare(channel, limits)

    async def _remove(self, channel: str) -> None:
        await self._topology.delete(channel)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if not messages:
            return []
        self._fill.observe(messages)
        outcomes = await self._publisher.publish(messages)
        self._observe(messages, outcomes)
        return outcomes

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Subscribe; waits for a queue that does not exist yet."""
        connection = self._consuming.next()
        subscription = QueueSubscription(connection, self.upkeep, self._topology, queue, prefetch, self._timeout_s)
        self._consuming.note(connection, subscription)
        return QueueConsumer(queue, subscription, self._fill)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for session, tags in _by_session(deliveries).items():
            session.ack(tags)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        for session, tags in _by_session(deliveries).items():
            session.requeue(tags)

    def read(self, log: str, start: int | Since) -> Reader:
        """Read a stream; waits for a log that does not exist yet."""
        connection = self._consuming.next()
        subscription = StreamSubscription(connection, self.upkeep, self._topology, log, start, self._timeout_s)
        self._consuming.note(connection, subscription)
        return StreamReader(log, subscription, self._topology, self._timeout_s)

    async def end(self, log: str) -> int:
        return await end_of(self._topology, log, self._timeout_s)

    async def depth(self, queue: str) -> Depth:
        """Return the number of ready messages, and an estimate of the requests in them."""
        messages = await self._topology.ready(queue)
        return Depth(messages, self._fill.requests(queue, messages))


def _by_session(deliveries: Sequence[Delivery]) -> dict[Session, list[int]]:
    sessions: dict[Session, list[int]] = {}
    for delivery in deliveries:
        if isinstance(delivery.consumer, Session):
            sessions.setdefault(delivery.consumer, []).append(delivery.tag)
    return sessions
