"""The window of a partition: how far apart the first delivery that is not settled and the last one may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition

from broker.kafka.offset_tracker import OffsetTracker


def pause_wide(consumer: Any, claims: Mapping[TopicPartition, OffsetTracker], paused: set[TopicPartition]) -> None:
    """Fetch nothing more of partitions whose window is full, and go on with those that have room again."""
    for partition, claim in claims.items():
        if claim.is_wide and partition not in paused:
            paused.add(partition)
            consumer.pause(partition)
        elif not claim.is_wide and partition in paused:
            paused.discard(partition)
            consumer.resume(partition)
