"""The topics of all channels: how they are made, and the number of their partitions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from broker.channels import LOGS, Channels, Kind, Limits
from broker.errors import Refused, TryAgain, Unavailable
from broker.kafka.clients import TIMEOUT_MS, KafkaClients

GIB = 1024**3
MESSAGE_BYTES = 9 * 1024 * 1024  # 8 MiB of body, and headers
STATUS_MS = 600_000
TRANSIENT_MS = 600_000
RESULTS_MS = 7 * 24 * 3600 * 1000
REPLICAS = 3
KNOWN_LIMIT = 10_000  # topics to remember; without a limit, clients could fill the memory with invented reply addresses
_KNOWN_S = 30.0
_MISSING_S = 0.2
_SMALLEST_SEGMENT = 1024 * 1024
_NO_TOPIC, _EXISTS = 3, 36
_DELETED_WITHIN_S = 10.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def settings_of(channels: Channels, channel: str, limits: Limits) -> dict[str, str]:
    """Return the settings of a channel's topic. Kafka never trims a queue: Millrace deletes its settled records."""
    kind = channels.kind(channel) if channels.is_ours(channel) else Kind.QUEUE
    settings = {"max.message.bytes": str(MESSAGE_BYTES), "cleanup.policy": "delete", "retention.ms": "-1"}
    if kind is Kind.STATUS:
        settings["retention.ms"] = str(STATUS_MS)
    elif kind is Kind.TRANSIENT:
        settings["retention.ms"] = str(TRANSIENT_MS)
    elif kind is Kind.RESULTS:
        settings["retention.ms"] = str(RESULTS_MS)
    elif kind is Kind.LOG:
        size = max(limits.bytes or GIB, 2 * _SMALLEST_SEGMENT)
        settings |= {"retention.bytes": str(size), "segment.bytes": str(max(_SMALLEST_SEGMENT, size // 8))}
    return settings


class KafkaTopology:
    """Makes, checks and deletes topics, and caches the number of their partitions for a while."""

    def __init__(
        self, clients: KafkaClients, channels: Channels, partitions: int, *, known_limit: int = KNOWN_LIMIT
    ) -> None:
        """`partitions` is the number of partitions of a new queue."""
        self._clients = clients
        self._channels = channels
        self._partitions = partitions
        self._known_limit = known_limit
        self._known: dict[str, tuple[float, int | None]] = {}
        self._checked: set[str] = set()

    async def partitions(self, topic: str, *, fresh: bool = False) -> int | None:
        """Return the number of partitions of a topic; None if it does not exist. Raises Unreachable.

        A number is remembered for 30 s and an absence for 0.2 s; with `fresh` an absence is always checked again.
        """
        if not _NAME.fullmatch(topic):  # a reply address can be any text
            return None
        at, number = self._known.get(topic, (0.0, None))
        age = time.monotonic() - at
        if at and not (fresh and number is None) and age < (_MISSING_S if number is None else _KNOWN_S):
            return number
        (found,) = await self._clients.ask(lambda: self._clients.admin.describe_topics([topic]))
        number = len(found["partitions"]) if found["error_code"] == 0 else None
        self._remember(topic, number)
        return number

    def _remember(self, topic: str, number: int | None) -> None:
        self.forget(topic)
        self._known[topic] = (time.monotonic(), number)  # at the end, so that the first entry is the oldest
        if len(self._known) > self._known_limit:
            del self._known[next(iter(self._known))]

    def forget(self, topic: str) -> None:
        """Remove a topic from the cache, so that Kafka is asked about it the next time."""
        self._known.pop(topic, None)
        self._checked.discard(topic)

    async def exists(self, topic: str, *, if_unknown: bool = False) -> bool:
        """Return True if a topic exists now; return `if_unknown` if Kafka does not answer."""
        try:
            return await self.partitions(topic, fresh=True) is not None
        except TryAgain:
            return if_unknown

    async def declare(self, channel: str, limits: Limits) -> None:
        """Make a channel's topic if it does not exist; raises Refused if an existing topic would lose messages."""
        if await self.partitions(channel, fresh=True) is not None:
            await self._check(channel)
            return
        kind = self._channels.kind(channel) if self._channels.is_ours(channel) else Kind.QUEUE
        delay = channel.startswith(f"{self._channels.prefix}delay.")  # its messages must stay in the order of due times
        one_partition = delay or kind in LOGS or kind in (Kind.TRANSIENT, Kind.RESULTS)
        partitions = 1 if one_partition else self._partitions
        await self.create(channel, partitions, settings_of(self._channels, channel, limits))

    def is_log(self, topic: str) -> bool:
        """Return True if a topic is a log of this installation. Only its first partition is used, to keep the order."""
        return self._channels.is_ours(topic) and self._channels.kind(topic) in LOGS

    async def _check(self, topic: str) -> None:
        """Refuse a compacted topic: it accepts no record without a key, and Kafka deletes older records there."""
        if topic in self._checked:
            return
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": ""})
        answers = await self._clients.ask(lambda: self._clients.admin.describe_configs([resource]))
        policies = [entry[1] for answer in answers for one in answer.resources for entry in one[4]]
        if any("compact" in policy for policy in policies):
            raise Refused(f"{topic}: the topic has cleanup.policy={policies[0]}: set it to delete")
        self._checked.add(topic)

    async def create(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        """Make a topic with these settings, and return when it can be used; raises Refused or Unreachable."""
        brokers = (await self._clients.ask(lambda: self._clients.admin.describe_cluster()))["brokers"]
        replicas = min(REPLICAS, len(brokers))
        if replicas == REPLICAS:
            settings = settings | {"min.insync.replicas": str(REPLICAS - 1)}
        new = NewTopic(topic, partitions, replicas, topic_configs=settings)
        made = await self._clients.ask(lambda: self._clients.admin.create_topics([new], TIMEOUT_MS))
        code = made.topic_errors[0][1]
        if code not in (0, _EXISTS):
            raise Refused(f"{topic}: Kafka refused to create this topic ({for_code(code).__name__})")
        self.forget(topic)
        while not await self._has_leaders(topic):  # noqa: ASYNC110 - the state of another process has no event
            await asyncio.sleep(0.02)

    async def missing(self, topics: Sequence[str]) -> list[str]:
        """Ask Kafka which of these topics do not exist; return those, and remove them from the cache."""
        found = await self._clients.ask(lambda: self._clients.admin.describe_topics(list(topics)))
        gone = [topic["topic"] for topic in found if topic["error_code"] == _NO_TOPIC]
        for topic in gone:
            self.forget(topic)
        return gone

    async def delete(self, channel: str) -> None:
        """Delete a topic with the committed offsets of its group; raises Unavailable if Kafka refuses."""
        self.forget(channel)
        gone = await self._clients.ask(lambda: self._clients.admin.delete_topics([channel], TIMEOUT_MS))
        code = gone.topic_error_codes[0][1]
        if code not in (0, _NO_TOPIC):
            raise Unavailable(f"{channel}: Kafka refused to delete this topic ({for_code(code).__name__})")
        until = time.monotonic() + _DELETED_WITHIN_S
        while await self.partitions(channel, fresh=True) is not None and time.monotonic() < until:
            self.forget(channel)
            await asyncio.sleep(0.02)

    async def _has_leaders(self, topic: str) -> bool:
        (found,) = await self._clients.ask(lambda: self._clients.admin.describe_topics([topic]))
        return found["error_code"] == 0 and all(part["error_code"] == 0 for part in found["partitions"])
