"""The Kafka adapter."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from weakref import WeakSet

from aiokafka import TopicPartition

from broker.base import DELAY_LADDER_S, Broker, Consumer, Reader, Since
from broker.channels import NO_LIMITS, Channels, Kind, Limits
from broker.errors import TryAgain
from broker.kafka.address import KafkaAddress
from broker.kafka.cluster import KafkaCluster
from broker.kafka.delays import DelayMover
from broker.kafka.delivery_owner import Holder, owner_of, tracker_of
from broker.kafka.limits import DeclaredLimits, QueueLevels
from broker.kafka.log import KafkaReader
from broker.kafka.log_throttle import quieten
from broker.kafka.offset_tracker import OffsetTracker
from broker.kafka.properties import unpack_delayed, unpack_message
from broker.kafka.publisher import KafkaPublisher
from broker.kafka.records import read_leniently
from broker.kafka.subscription import KafkaSubscription
from broker.kafka.trimming import LogTrimmer
from broker.kafka.undecodable import UndecodableRecords
from broker.kafka.wire import translate_closed
from broker.messages import Delivery, Depth, Message, Outcome
from broker.support.fill_ratio import FillRatio

TIMEOUT_S = 30.0
DELETE_S = 5.0


class KafkaConsumer(Consumer):
    """Takes the messages that its subscription has fetched."""

    def __init__(self, queue: str, subscription: KafkaSubscription, fill: FillRatio) -> None:
        self.queue = queue
        self.subscription = subscription
        self._fill = fill

    @property
    def trouble(self) -> str:
        return self.subscription.trouble

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self.subscription.take(limit)
        self._fill.observe(delivery.message for delivery in taken)
        return taken

    async def stop(self) -> None:
        self.subscription.stop()

    def resize(self, prefetch: int) -> None:
        self.subscription.resize(prefetch)


class KafkaBroker(Broker):
    """Kafka as a broker: one producer, one admin client, and one consumer for each queue and log."""

    def __init__(self, url: str, channels: Channels, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(channels)
        quieten()
        translate_closed()
        read_leniently()
        self.cluster = KafkaCluster(KafkaAddress.of(url), channels)
        self._limits = DeclaredLimits(self.cluster, f"{channels.prefix}limits")
        self._delays = [f"{channels.prefix}delay.{round(step_s * 1000)}" for step_s in DELAY_LADDER_S]
        levels = QueueLevels(self.cluster, self._limits, channels)
        self._publisher = KafkaPublisher(self.cluster, levels, self._delays, timeout_s)
        self._trimmer = LogTrimmer(self.cluster.offsets, self._limits, channels)
        self._mover = DelayMover(self, self.cluster.topology, self._delays)
        self._undecodable = UndecodableRecords(self)
        self._subscriptions: WeakSet[KafkaSubscription] = WeakSet()
        self._readers: set[KafkaReader] = set()  # to close their connections
        self._transient: set[str] = set()  # topics that are deleted with this process
        self._fill = FillRatio()

    def __repr__(self) -> str:
        return f"KafkaBroker({self.cluster.address.shown!r}, prefix={self.channels.prefix!r})"

    async def open(self) -> None:
        await self.cluster.open()
        await self._limits.open()
        self.upkeep.start()

    async def close(self) -> None:
        await self.upkeep.stop()
        await asyncio.gather(self._mover.close(), self._undecodable.close())
        await asyncio.gather(
            *[subscription.close() for subscription in list(self._subscriptions)],
            *[reader.close() for reader in list(self._readers)],
        )
        self._subscriptions.clear()
        await self._delete_transient()
        await self._publisher.close()
        await self._limits.close()
        await self.cluster.close()

    async def ping(self) -> None:
        await self.cluster.ping()

    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Return those of these channels that do not exist.

        Also makes the topic of all limits again if it is gone, with the limits that this process knows.
        """
        limits = self._limits.topic
        gone = await self.cluster.topology.missing([*channels, limits])
        if limits in gone and self._limits.are_known:
            for record in await self._limits.make_again():
                await self._publisher.publish_keyed(limits, *record)
        return [channel for channel in gone if channel in channels]

    async def _make(self, channel: str, limits: Limits) -> None:
        await self.cluster.topology.declare(channel, limits)
        if self._is_transient(channel):
            self._transient.add(channel)
        if (news := self._limits.note(channel, limits)) is not None:
            await self._limits.make_topic()
            await self._publisher.publish_keyed(self._limits.topic, channel.encode(), news)

    async def _remove(self, channel: str) -> None:
        self._transient.discard(channel)
        await self.cluster.topology.delete(channel)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if not messages:
            return []
        if any(message.delay_s > 0 for message in messages):
            for topic in self._delays:
                await self.cluster.topology.declare(topic, NO_LIMITS)
            self._mover.check_now()
        self._fill.observe(messages)
        outcomes = await self._publisher.publish(messages)
        self._observe(messages, outcomes)
        await self._trimmer.observe(messages)
        return outcomes

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Subscribe; waits for a queue that does not exist yet."""
        alone = self._is_transient(queue)
        delayed = queue in self._delays
        subscription = KafkaSubscription(
            self.cluster,
            self.upkeep,
            queue,
            prefetch,
            shared=not alone,
            bury=self._undecodable.take,
            unpack=unpack_delayed if delayed else unpack_message,
        )
        self._subscriptions.add(subscription)
        if not alone and not delayed:
            self._mover.start()
        return KafkaConsumer(queue, subscription, self._fill)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle with the next commit."""
        for (holder, tracker), held in _by_owner(deliveries).items():
            holder.settle(tracker, [delivery.tag for delivery in held])

    async def flush(self) -> None:
        await asyncio.gather(*[subscription.flush() for subscription in list(self._subscriptions)])

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        """Publish, ack, and commit at once, so that a crash does not deliver the moved messages again."""
        outcomes = await super().forward(deliveries, messages)
        if all(outcome.safe for outcome in outcomes):
            await asyncio.gather(*[holder.flush() for holder, _ in _by_owner(deliveries)])
        return outcomes

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        for (holder, tracker), held in _by_owner(deliveries).items():
            holder.give_back(tracker, held)

    def read(self, log: str, start: int | Since) -> Reader:
        """Read a log; waits for one that does not exist yet."""
        reader = KafkaReader(self.cluster, self.upkeep, log, start, on_closed=self._readers.discard)
        self._readers.add(reader)
        return reader

    async def end(self, log: str) -> int:
        partition = TopicPartition(log, 0)
        if await self.cluster.topology.partitions(log, fresh=True) is None:
            return 0
        return (await self.cluster.offsets.ends([partition]))[partition]

    async def depth(self, queue: str) -> Depth:
        """Count the messages that are not settled, held ones included, and estimate the requests in them.

        Kafka does not report which messages are held.
        """
        messages = await self.cluster.unsettled(queue)
        return Depth(messages, self._fill.requests(queue, messages))

    def origin(self, delivery: Delivery) -> bytes | None:
        """A record's partition and offset never change."""
        partition = tracker_of(delivery).partition
        return f"{partition.topic}\n{partition.partition}\n{delivery.tag}".encode()

    def _is_transient(self, channel: str) -> bool:
        return self.channels.is_ours(channel) and self.channels.kind(channel) is Kind.TRANSIENT

    async def _delete_transient(self) -> None:
        """Delete the topics of this process alone.

        If Kafka does not answer, they remain, and their retention empties them.
        """
        with contextlib.suppress(TryAgain, TimeoutError):
            async with asyncio.timeout(DELETE_S):
                while self._transient:
                    await self.cluster.topology.delete(self._transient.pop())


def _by_owner(deliveries: Sequence[Delivery]) -> dict[tuple[Holder, OffsetTracker], list[Delivery]]:
    found: defaultdict[tuple[Holder, OffsetTracker], list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        found[owner_of(delivery)].append(delivery)
    return found
