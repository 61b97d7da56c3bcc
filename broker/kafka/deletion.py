"""Detects that a topic was deleted while a consumer reads it.

aiokafka does not report that. If a new topic has the same name, aiokafka continues to read there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.errors import IllegalStateError

from broker.errors import TryAgain
from broker.kafka.offset_tracker import OffsetTracker


class TopicDeleted(TryAgain):
    """The topic was deleted, and maybe created again: earlier deliveries can no longer be settled."""


def check_topic(consumer: Any, topic: str, trackers: Iterable[OffsetTracker]) -> None:
    """Raise `TopicDeleted`, and mark all trackers as lost, if a topic is gone or ends before a delivered record.

    Sends no request to Kafka: it uses the metadata that the consumer received last.
    """
    trackers = [tracker for tracker in trackers if not tracker.lost]
    if consumer.partitions_for_topic(topic) is not None and not any(_ends_before(consumer, each) for each in trackers):
        return
    for tracker in trackers:
        tracker.lost = True
    raise TopicDeleted(f"{topic} was deleted")


def poll_time(consumer: Any, partition: Any) -> int | None:
    """Return when Kafka last answered a fetch from this partition, in milliseconds; None if it did not."""
    try:
        time_ms: int | None = consumer.last_poll_timestamp(partition)
    except (IllegalStateError, AssertionError):  # the partition is no longer assigned to this consumer
        return None
    return time_ms


def _ends_before(consumer: Any, tracker: OffsetTracker) -> bool:
    """Return True if the partition ends before the next record.

    The answer with the last records does not count: Kafka reads the end of a partition before its records, so a record
    that is written in between is beyond that end.
    """
    time_ms = poll_time(consumer, tracker.partition)
    if time_ms is None or time_ms == tracker.admitted_ms:
        return False
    end = consumer.highwater(tracker.partition)
    return end is not None and end < tracker.position
