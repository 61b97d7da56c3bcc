"""The limits of queues. Kafka has none, so a publisher regularly counts the unsettled messages.

Declared limits are in a compacted topic, because publishers and declaring processes differ. Between two counts a
process counts its own messages; other processes can exceed a limit by their messages within `COUNT_EVERY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from broker.channels import NO_LIMITS, Channels, Kind, Limits
from broker.errors import TryAgain
from broker.kafka.cluster import KafkaCluster
from broker.messages import Message
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import wait_for_event

COUNT_EVERY_S = 0.5
COUNT_WHEN_FULL_S = 0.05
NEARLY_FULL = 0.5
REFUSING = (Kind.QUEUE, Kind.TRANSIENT)
OPEN_S = 10.0
_POLL_MS = 100


@dataclass(slots=True)
class _Level:
    messages: int = 0
    counted_at: float = 0.0
    size: float = 0.0  # mean bytes of a message that this process published
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)


class DeclaredLimits:
    """Follows the topic of limits."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self.topic = topic
        self._cluster = cluster
        self._limits: dict[str, Limits] = {}
        self._following: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._closing = False

    def of(self, queue: str) -> Limits:
        """Return a queue's limits; `NO_LIMITS` if none were declared."""
        return self._limits.get(queue, NO_LIMITS)

    @property
    def are_known(self) -> bool:
        """True if any queue has limits."""
        return bool(self._limits)

    def note(self, queue: str, limits: Limits) -> bytes | None:
        """Remember limits that this process declares; return the record to publish if they are new."""
        if self.of(queue) == limits:
            return None
        self._limits[queue] = limits
        return _record(limits)

    async def open(self) -> None:
        """Read the topic to its end, at most 10 s. Without a topic no queue has limits; this does not make one."""
        self._following = asyncio.create_task(self._follow(), name="limits of queues")
        if await self._cluster.topology.partitions(self.topic, fresh=True) is None:
            return
        await wait_for_event(self._caught_up, OPEN_S)

    async def make_again(self) -> list[tuple[bytes, bytes]]:
        """Make the topic after it was deleted; return all known limits as (key, value) to publish."""
        await self.make_topic()
        return [(queue.encode(), _record(limits)) for queue, limits in self._limits.items()]

    async def make_topic(self) -> None:
        """Make the topic if it does not exist, before the first limits are published."""
        if await self._cluster.topology.partitions(self.topic, fresh=True) is None:
            await self._cluster.topology.create(self.topic, 1, {"cleanup.policy": "compact"})

    async def close(self) -> None:
        """Stop following."""
        self._closing = True
        if self._following is not None:
            await asyncio.wait((self._following,), timeout=5.0)

    async def _follow(self) -> None:
        while not self._closing:
            try:
                found = await self._cluster.topology.partitions(self.topic, fresh=True) is not None
                if found:
                    await self._read()
            except (KafkaError, TryAgain, OSError):
                found = False
            if not found:
                await asyncio.sleep(TRY_AGAIN_S)

    async def _read(self) -> None:
        partition = TopicPartition(self.topic, 0)
        consumer = AIOKafkaConsumer(**self._cluster.address.arguments, group_id=None, fetch_max_wait_ms=_POLL_MS)
        try:
            await consumer.start()
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            end = (await self._cluster.offsets.ends([partition]))[partition]
            while not self._closing:
                if await self._cluster.topology.partitions(self.topic) is None:
                    return  # it was deleted: a new one is read from its beginning
                if await consumer.position(partition) >= end:
                    self._caught_up.set()
                for record in (await consumer.getmany(timeout_ms=_POLL_MS)).get(partition, []):
                    self._learn(record.key, record.value)
        finally:
            with contextlib.suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(5.0):
                    await consumer.stop()

    def _learn(self, key: bytes | None, value: bytes | None) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            data: Any = orjson.loads(value or b"{}")
            self._limits[(key or b"").decode()] = Limits(messages=int(data["messages"]), bytes=int(data["bytes"]))


def _record(limits: Limits) -> bytes:
    return orjson.dumps({"messages": limits.messages, "bytes": limits.bytes})


class QueueLevels:
    """Decides whether a queue has room. Logs and output queues always have: they drop their oldest messages."""

    def __init__(self, cluster: KafkaCluster, limits: DeclaredLimits, channels: Channels) -> None:
        self._channels = channels
        self._cluster = cluster
        self._limits = limits
        self._levels: dict[str, _Level] = {}

    async def room(self, queue: str, messages: Sequence[Message]) -> int:
        """Return how many of these messages, from the first on, `queue` has room for, and count them as published."""
        limits = self._limits.of(queue)
        if limits == NO_LIMITS or self._channels.kind(queue) not in REFUSING:
            return len(messages)
        level = self._levels.setdefault(queue, _Level())
        mean = sum([len(message.body) for message in messages]) / len(messages)
        level.size = mean if not level.size else level.size + 0.1 * (mean - level.size)
        most = limits.messages or 2**62
        if limits.bytes:
            most = min(most, int(limits.bytes / max(1.0, level.size)))
        if self._is_stale(level, most, len(messages)):
            await self._count(queue, level, most, len(messages))
        room = max(0, min(len(messages), most - level.messages))
        level.messages += room
        return room

    def _is_stale(self, level: _Level, most: int, wanted: int) -> bool:
        age = time.monotonic() - level.counted_at
        return age > (COUNT_WHEN_FULL_S if level.messages + wanted > NEARLY_FULL * most else COUNT_EVERY_S)

    async def _count(self, queue: str, level: _Level, most: int, wanted: int) -> None:
        async with level.counting:
            if self._is_stale(level, most, wanted):
                level.messages = await self._cluster.unsettled(queue)
                level.counted_at = time.monotonic()
