"""The port on Kafka."""

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
from broker.kafka.delays import DelayMover
from broker.kafka.holding import claim_of, holder_of
from broker.kafka.limits import DeclaredLimits, QueueLevels
from broker.kafka.log import KafkaReader
from broker.kafka.log_throttle import quieten
from broker.kafka.offset_tracker import OffsetTracker
from broker.kafka.properties import unpack_delayed, unpack_message
from broker.kafka.publisher import KafkaPublisher
from broker.kafka.records import read_leniently
from broker.kafka.subscription import KafkaSubscription
from broker.kafka.topology import KafkaTopology
from broker.kafka.trimming import LogTrimmer
from broker.kafka.undecodable import UndecodableRecords
from broker.kafka.wire import translate_closed
from broker.messages import Delivery, Depth, Message, Outcome
from broker.support.fill_ratio import FillRatio

TIMEOUT_S = 30.0
DELETE_S = 5.0


class KafkaConsumer(Consumer):
    """Takes what its subscription has fetched."""

    def __init__(self, queue: str, subscription: KafkaSubscription, fill: FillRatio) -> None:
        self.queue = queue
        self.subscription = subscription
        self._fill = fill

    @property
    def trouble(self) -> str:
        """Return why the topic cannot be read now."""
        return self.subscription.trouble

    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` messages."""
        taken = await self.subscription.take(limit)
        self._fill.observe(delivery.message for delivery in taken)
        return taken

    async def stop(self) -> None:
        """Fetch no more."""
        self.subscription.stop()

    def resize(self, prefetch: int) -> None:
        """Change how much may be held."""
        self.subscription.resize(prefetch)


class KafkaBroker(Broker):
    """A producer, an admin client, a consumer for each queue and log."""

    def __init__(self, url: str, channels: Channels, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(channels)
        quieten()
        translate_closed()
        read_leniently()
        self._address = KafkaAddress.of(url)
        self.topology = KafkaTopology(self._address, channels)
        self._limits = DeclaredLimits(self._address, self.topology, f"{channels.prefix}limits")
        self._levels = QueueLevels(self.topology, self._limits, channels)
        self._delays = [f"{channels.prefix}delay.{round(step_s * 1000)}" for step_s in DELAY_LADDER_S]
        self._publisher = KafkaPublisher(self._address, self.topology, self._levels, self._delays, timeout_s)
        self._trimming = LogTrimmer(self.topology, self._limits, channels)
        self._mover = DelayMover(self, self.topology, self._delays)
        self._burials = UndecodableRecords(self)
        self._subscriptions: WeakSet[KafkaSubscription] = WeakSet()
        self._readers: set[KafkaReader] = set()  # whose connections nobody else would close
        self._transient: set[str] = set()  # topics that die with us
        self._fill = FillRatio()

    def __repr__(self) -> str:
        return f"KafkaBroker({self._address.shown!r}, prefix={self.channels.prefix!r})"

    async def open(self) -> None:
        """Reach a broker."""
        await self.topology.open()
        await self._limits.open()
        self.upkeep.start()

    async def close(self) -> None:
        """Flush, give back what is held, let go."""
        await self.upkeep.stop()
        await asyncio.gather(self._mover.close(), self._burials.close())
        await asyncio.gather(
            *[subscription.close() for subscription in list(self._subscriptions)],
            *[reader.close() for reader in list(self._readers)],
        )
        self._subscriptions.clear()
        await self._delete_transient()
        await self._publisher.close()
        await self._limits.close()
        await self.topology.close()

    async def ping(self) -> None:
        """Ask for the brokers."""
        await self.topology.ping()

    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Look for topics. The topic of all limits is made again at once, with what this process knows of it."""
        limits = self._limits.topic
        gone = await self.topology.missing([*channels, limits])
        if limits in gone and self._limits.are_known:
            for record in await self._limits.make_again():
                await self._publisher.publish_keyed(limits, *record)
        return [channel for channel in gone if channel in channels]

    async def _make(self, channel: str, limits: Limits) -> None:
        await self.topology.declare(channel, limits)
        if self._is_transient(channel):
            self._transient.add(channel)
        if (news := self._limits.note(channel, limits)) is not None:
            await self._limits.make_topic()
            await self._publisher.publish_keyed(self._limits.topic, channel.encode(), news)

    async def _remove(self, channel: str) -> None:
        self._transient.discard(channel)
        await self.topology.delete(channel)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish and wait for the confirms."""
        if not messages:
            return []
        if any(message.delay_s > 0 for message in messages):
            for topic in self._delays:
                await self.topology.declare(topic, NO_LIMITS)
            self._mover.hurry()
        self._fill.observe(messages)
        outcomes = await self._publisher.publish(messages)
        self._observe(messages, outcomes)
        await self._trimming.observe(messages)
        return outcomes

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Subscribe; a queue that is not there yet is waited for."""
        alone = self._is_transient(queue)
        delayed = queue in self._delays
        subscription = KafkaSubscription(
            self._address,
            self.topology,
            self.upkeep,
            queue,
            prefetch,
            shared=not alone,
            bury=self._burials.take,
            unpack=unpack_delayed if delayed else unpack_message,
        )
        self._subscriptions.add(subscription)
        if not alone and not delayed:
            self._mover.start()
        return KafkaConsumer(queue, subscription, self._fill)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good, with the next commit."""
        for (subscription, claim), held in _by_claim(deliveries).items():
            subscription.settle(claim, [delivery.tag for delivery in held])

    async def flush(self) -> None:
        """Commit what is settled."""
        await asyncio.gather(*[subscription.flush() for subscription in list(self._subscriptions)])

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        """Publish, ack, and commit: what was moved must not be taken again where it was."""
        outcomes = await super().forward(deliveries, messages)
        if all(outcome.safe for outcome in outcomes):
            await asyncio.gather(*[subscription.flush() for subscription, _ in _by_claim(deliveries)])
        return outcomes

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give back."""
        for (subscription, claim), held in _by_claim(deliveries).items():
            subscription.give_back(claim, held)

    def read(self, log: str, start: int | Since) -> Reader:
        """Read a log; one that is not there yet is waited for."""
        reader = KafkaReader(self._address, self.topology, self.upkeep, log, start, closed=self._readers.discard)
        self._readers.add(reader)
        return reader

    async def end(self, log: str) -> int:
        """Return the offset that the next record will have."""
        partition = TopicPartition(log, 0)
        if await self.topology.partitions(log, fresh=True) is None:
            return 0
        return (await self.topology.ends([partition]))[partition]

    async def depth(self, queue: str) -> Depth:
        """Count what is not settled (Kafka does not tell what is held), and estimate the requests in it."""
        messages = await self.topology.unsettled(queue)
        return Depth(messages, self._fill.requests(queue, messages))

    def origin(self, delivery: Delivery) -> bytes | None:
        """A record's place never changes."""
        claim = claim_of(delivery)
        return f"{claim.partition.topic}\n{claim.partition.partition}\n{delivery.tag}".encode()

    def _is_transient(self, channel: str) -> bool:
        return self.channels.is_ours(channel) and self.channels.kind(channel) is Kind.TRANSIENT

    async def _delete_transient(self) -> None:
        """Remove what was declared for this process alone; Kafka that is away keeps the topic, and empties it."""
        with contextlib.suppress(TryAgain, TimeoutError):
            async with asyncio.timeout(DELETE_S):
                while self._transient:
                    await self.topology.delete(self._transient.pop())


def _by_claim(deliveries: Sequence[Delivery]) -> dict[tuple[KafkaSubscription, OffsetTracker], list[Delivery]]:
    found: defaultdict[tuple[KafkaSubscription, OffsetTracker], list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        found[holder_of(delivery)].append(delivery)
    return found
