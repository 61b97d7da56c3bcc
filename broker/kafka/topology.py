"""What every channel is on Kafka, and what the brokers know of it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.group import LeaveGroupRequest

from broker.channels import LOGS, Channels, Kind, Limits
from broker.errors import Refused, Unavailable, Unreachable
from broker.kafka.address import KafkaAddress
from broker.kafka.offset_tracker import UNKNOWN, CommittedState, unpack_state

GIB = 1024**3
MESSAGE_BYTES = 9 * 1024 * 1024  # 8 MiB of body, and headers
STATUS_MS = 600_000
TRANSIENT_MS = 600_000
RESULTS_MS = 7 * 24 * 3600 * 1000
REPLICAS = 3
TIMEOUT_MS = 10_000
KNOWN_LIMIT = 10_000  # topics: clients name them in their reply addresses
_KNOWN_S = 30.0
_MISSING_S = 0.2
_SMALLEST_SEGMENT = 1024 * 1024
_NO_TOPIC, _EXISTS = 3, 36
_DELETED_WITHIN_S = 10.0
_AGAIN_S = 0.1
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def settings_of(channels: Channels, channel: str, limits: Limits) -> dict[str, str]:
    """Return what a topic is made with. A queue is never trimmed by Kafka: what is settled goes by our own hand."""
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
    """Declares, deletes and measures, with clients of its own: one that consumes would answer late."""

    def __init__(self, address: KafkaAddress, channels: Channels) -> None:
        self._address = address
        self._channels = channels
        self._admin: Any = None
        self._probe: Any = None
        self._opening = asyncio.Lock()
        self._known: dict[str, tuple[float, int | None]] = {}
        self._checked: set[str] = set()

    async def open(self) -> None:
        """Reach a broker; raises Unreachable."""
        async with self._opening:
            if self._admin is not None:
                return
            arguments = self._address.arguments
            admin = AIOKafkaAdminClient(**arguments)
            probe = AIOKafkaConsumer(**arguments, group_id=None, enable_auto_commit=False)
            try:
                await admin.start()
                await probe.start()
            except (KafkaError, OSError) as exc:
                await admin.close()
                await probe.stop()
                raise self._address.unreachable() from exc
            self._admin, self._probe = admin, probe

    async def close(self) -> None:
        """Let the clients go."""
        if self._admin is not None:
            await asyncio.gather(self._admin.close(), self._probe.stop(), return_exceptions=True)
            self._admin = self._probe = None

    async def ping(self) -> None:
        """Ask for the brokers; raises Unreachable."""
        await self._ask(lambda: self._admin.describe_cluster())

    async def partitions(self, topic: str, *, fresh: bool = False) -> int | None:
        """Return how many partitions a topic has; None if it is not there. Remembered for a while."""
        if not _NAME.fullmatch(topic):  # it may be a client's reply address
            return None
        at, number = self._known.get(topic, (0.0, None))
        age = time.monotonic() - at
        if at and not (fresh and number is None) and age < (_MISSING_S if number is None else _KNOWN_S):
            return number
        (found,) = await self._ask(lambda: self._admin.describe_topics([topic]))
        number = len(found["partitions"]) if found["error_code"] == 0 else None
        self._remember(topic, number)
        return number

    def _remember(self, topic: str, number: int | None) -> None:
        self.forget(topic)
        self._known[topic] = (time.monotonic(), number)  # the last one: the first one is the oldest
        if len(self._known) > KNOWN_LIMIT:
            del self._known[next(iter(self._known))]

    def forget(self, topic: str) -> None:
        """Look again the next time."""
        self._known.pop(topic, None)
        self._checked.discard(topic)

    async def declare(self, channel: str, limits: Limits) -> None:
        """Make a topic where there is none; raises Refused for one that is there and would lose what is written."""
        if await self.partitions(channel, fresh=True) is not None:
            await self._check(channel)
            return
        kind = self._channels.kind(channel) if self._channels.is_ours(channel) else Kind.QUEUE
        delay = channel.startswith(f"{self._channels.prefix}delay.")  # in which who comes first is due first
        alone = delay or kind in LOGS or kind in (Kind.TRANSIENT, Kind.RESULTS)
        await self.create(
            channel, 1 if alone else self._address.partitions, settings_of(self._channels, channel, limits)
        )

    def is_log(self, topic: str) -> bool:
        """Tell whether a topic is one of our logs, which have their order from one partition."""
        return self._channels.is_ours(topic) and self._channels.kind(topic) in LOGS

    async def _check(self, topic: str) -> None:
        """Refuse a compacted topic: Kafka takes no record without a key there, and removes what it took."""
        if topic in self._checked:
            return
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": ""})
        answers = await self._ask(lambda: self._admin.describe_configs([resource]))
        policies = [entry[1] for answer in answers for one in answer.resources for entry in one[4]]
        if any("compact" in policy for policy in policies):
            raise Refused(f"{topic}: this topic is there with cleanup.policy={policies[0]}: set it to delete")
        self._checked.add(topic)

    async def create(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        """Make a topic with these settings, and return when it can be used."""
        brokers = (await self._ask(lambda: self._admin.describe_cluster()))["brokers"]
        replicas = min(REPLICAS, len(brokers))
        if replicas == REPLICAS:
            settings = settings | {"min.insync.replicas": str(REPLICAS - 1)}
        made = await self._ask(
            lambda: self._admin.create_topics(
                [NewTopic(topic, partitions, replicas, topic_configs=settings)], TIMEOUT_MS
            )
        )
        code = made.topic_errors[0][1]
        if code not in (0, _EXISTS):
            raise Refused(f"{topic}: Kafka does not make this topic ({for_code(code).__name__})")
        self.forget(topic)
        while not await self._has_leaders(topic):  # noqa: ASYNC110 - the state of another process has no event
            await asyncio.sleep(0.02)

    async def missing(self, topics: Sequence[str]) -> list[str]:
        """Return those of these topics that are not there, and look again at them the next time."""
        found = await self._ask(lambda: self._admin.describe_topics(list(topics)))
        gone = [topic["topic"] for topic in found if topic["error_code"] == _NO_TOPIC]
        for topic in gone:
            self.forget(topic)
        return gone

    async def delete(self, channel: str) -> None:
        """Remove a topic; its group's offsets go with it."""
        self.forget(channel)
        gone = await self._ask(lambda: self._admin.delete_topics([channel], TIMEOUT_MS))
        code = gone.topic_error_codes[0][1]
        if code not in (0, _NO_TOPIC):
            raise Unavailable(f"{channel}: Kafka does not delete this topic ({for_code(code).__name__})")
        until = time.monotonic() + _DELETED_WITHIN_S
        while await self.partitions(channel, fresh=True) is not None and time.monotonic() < until:
            self.forget(channel)
            await asyncio.sleep(0.02)

    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, CommittedState]:
        """Return what the members of a group committed last."""
        found = await self._ask(lambda: self._admin.list_consumer_group_offsets(group, partitions=list(partitions)))
        states = {}
        for partition in partitions:
            commit = found.get(partition)
            known = commit is not None and commit.offset != UNKNOWN
            states[partition] = unpack_state(commit.offset, commit.metadata or "") if known else CommittedState()
        return states

    async def dismiss(self, group: str, is_dead: Callable[[str], bool]) -> int:
        """Make the members leave whose client's name `is_dead` knows; return how many have."""
        (answer,) = await self._ask(lambda: self._admin.describe_consumer_groups([group]))
        members = answer.to_object()["groups"][0]["members"]
        dead = [member["member_id"] for member in members if is_dead(member["client_id"])]
        if not dead:
            return 0
        coordinator = await self._ask(lambda: self._admin.find_coordinator(group))
        send = self._admin._send_request  # noqa: SLF001 - aiokafka has no name for it
        answers = [await self._ask(partial(send, LeaveGroupRequest(group, one), coordinator)) for one in dead]
        return sum(answer.error_code == 0 for answer in answers)  # not those of a coordinator that is none any more

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of each."""
        return dict(await self._ask(lambda: self._probe.end_offsets(list(partitions))))

    async def beginnings(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset of the first record of each."""
        return dict(await self._ask(lambda: self._probe.beginning_offsets(list(partitions))))

    async def at_time(self, partition: TopicPartition, at_ms: int) -> int | None:
        """Return the first offset written at or after a time; None if there is none."""
        found = (await self._ask(lambda: self._probe.offsets_for_times({partition: at_ms})))[partition]
        return None if found is None else int(found.offset)

    async def unsettled(self, queue: str) -> int:
        """Return how many messages of a queue are not settled: what waits, and what is held."""
        number = await self.partitions(queue)
        if not number:
            return 0
        partitions = [TopicPartition(queue, at) for at in range(number)]
        states, ends, beginnings = await asyncio.gather(
            self.committed(queue, partitions), self.ends(partitions), self.beginnings(partitions)
        )
        return sum(
            ends[partition] - max(states[partition].offset, beginnings[partition]) - states[partition].done.bit_count()
            for partition in partitions
        )

    async def trim(self, before: dict[TopicPartition, int]) -> None:
        """Remove the records before these offsets."""
        await self._ask(
            lambda: self._admin.delete_records(
                {tp: RecordsToDelete(offset) for tp, offset in before.items()}, TIMEOUT_MS
            )
        )

    async def _has_leaders(self, topic: str) -> bool:
        (found,) = await self._ask(lambda: self._admin.describe_topics([topic]))
        return found["error_code"] == 0 and all(part["error_code"] == 0 for part in found["partitions"])

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until there is an answer: a broker that has just started, or a partition that moves, says try again."""
        if self._admin is None:
            raise Unreachable("this connection to Kafka is not open")
        try:
            async with asyncio.timeout(TIMEOUT_MS / 1000):
                while True:
                    try:
                        return await question()
                    except KafkaError as exc:
                        if not exc.retriable:
                            raise
                    await asyncio.sleep(_AGAIN_S)
        except (KafkaError, OSError, TimeoutError) as exc:
            raise self._address.unreachable() from exc
