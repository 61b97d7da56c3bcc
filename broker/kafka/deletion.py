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


def _ends_before(consumer: Any, tracker: OffsetTracker) -> bool:
    try:
        end = consumer.highwater(tracker.partition)
    except IllegalStateError:  # the partition is no longer assigned to this consumer
        return False
    return end is not None and end < tracker.position
