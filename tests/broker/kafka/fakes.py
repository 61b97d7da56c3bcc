"""A consumer without a server, for tests of the classes around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from broker.kafka.offset_tracker import OffsetTracker
from broker.messages import Delivery, Message

TOPIC = "t"


def partition(number: int = 0) -> TopicPartition:
    return TopicPartition(TOPIC, number)


@dataclass(frozen=True)
class FetchedRecord:
    offset: int


def deliver(holder: object, tracker: OffsetTracker, *offsets: int) -> list[Delivery]:
    """Admit records and return their deliveries."""
    admitted = tracker.admit([FetchedRecord(offset) for offset in offsets])
    return [
        Delivery(Message(queue=TOPIC, body=b""), record.offset, came_back, (holder, tracker))
        for record, came_back in admitted
    ]


@dataclass
class FakeConsumer:
    """Records the calls of an AIOKafkaConsumer; `refusals` commits fail first."""

    ends: dict[TopicPartition, int] = field(default_factory=dict)
    polled_ms: dict[TopicPartition, int] = field(default_factory=dict)
    refusals: int = 0
    is_topic_gone: bool = False
    commits: list[dict[TopicPartition, Any]] = field(default_factory=list)
    paused: set[TopicPartition] = field(default_factory=set)
    positions: dict[TopicPartition, int] = field(default_factory=dict)

    def partitions_for_topic(self, _: str) -> set[int] | None:
        return None if self.is_topic_gone else {0}

    def highwater(self, which: TopicPartition) -> int | None:
        return self.ends.get(which)

    def last_poll_timestamp(self, which: TopicPartition) -> int | None:
        return self.polled_ms.get(which, 0)

    def pause(self, which: TopicPartition) -> None:
        self.paused.add(which)

    def resume(self, which: TopicPartition) -> None:
        self.paused.discard(which)

    def seek(self, which: TopicPartition, offset: int) -> None:
        self.positions[which] = offset

    async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise KafkaError
        self.commits.append(offsets)
