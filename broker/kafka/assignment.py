"""The partitions that a consumer reads now, each with its offset tracker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition

from broker.kafka.deletion import check_topic
from broker.kafka.offset_tracker import CommittedState, OffsetTracker


class Assignment:
    """The consumer of a subscription and the trackers of its partitions.

    In a rebalance Kafka first revokes the partitions and then assigns others, or the same ones again. In between,
    `suspend` keeps the trackers. `resume` continues with those whose partition no other member has read since.
    """

    def __init__(self) -> None:
        self.consumer: Any = None
        self.trackers: dict[TopicPartition, OffsetTracker] = {}
        self.known = asyncio.Event()  # set while `trackers` belong to the partitions that the consumer reads
        self._suspended: dict[TopicPartition, OffsetTracker] = {}
        self._paused: set[TopicPartition] = set()

    @property
    def outstanding(self) -> int:
        """The number of deliveries that are not settled."""
        return sum(tracker.outstanding for tracker in self.trackers.values())

    def read_all(self, partitions: Iterable[TopicPartition]) -> None:
        """Track these partitions from their beginnings, without a group."""
        self.trackers = {partition: OffsetTracker(partition, CommittedState()) for partition in partitions}
        self.known.set()

    def suspend(self) -> None:
        """Put the trackers aside until the next assignment."""
        self._suspended, self.trackers = self.trackers, {}

    def resume(self, states: Mapping[TopicPartition, CommittedState]) -> None:
        """Track the partitions that were assigned, from their committed states.

        A partition that no other member has read since continues with its former tracker. All other former trackers
        are lost.
        """
        suspended, self._suspended = self._suspended, {}
        for partition, state in states.items():
            former = suspended.pop(partition, None)
            if former is not None and former.outstanding and state.nonce == former.nonce:
                self.trackers[partition] = former
                self.consumer.seek(partition, former.position)
            else:
                if former is not None:
                    former.lost = True
                self.trackers[partition] = OffsetTracker(partition, state)
        for tracker in suspended.values():
            tracker.lost = True
        self._paused.clear()
        self.known.set()

    def detach(self) -> Any:
        """Return the consumer, or None, and forget it: no other task uses it after this call."""
        consumer, self.consumer = self.consumer, None
        return consumer

    def lose(self) -> None:
        """Mark all trackers as lost: their deliveries can no longer be settled here."""
        for tracker in self.trackers.values():
            tracker.lost = True
        self.trackers = {}

    def check_topic(self, topic: str) -> None:
        """Raise `TopicDeleted` if the topic was deleted while it is being read."""
        if self.known.is_set():
            check_topic(self.consumer, topic, self.trackers.values())

    def pause_full_windows(self) -> None:
        """Pause the partitions whose window is full, and resume those that have room again."""
        for partition, tracker in self.trackers.items():
            if tracker.is_window_full and partition not in self._paused:
                self._paused.add(partition)
                self.consumer.pause(partition)
            elif not tracker.is_window_full and partition in self._paused:
                self._paused.discard(partition)
                self.consumer.resume(partition)

    def has_more(self, tracker: OffsetTracker) -> bool:
        """Return True if the partition has records after those that were fetched."""
        return int(self.consumer.highwater(tracker.partition) or 0) > tracker.position
