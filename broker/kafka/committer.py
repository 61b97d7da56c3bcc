"""Commits the offsets that are settled, and trims the records before them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from broker.errors import TryAgain
from broker.kafka.assignment import Assignment
from broker.kafka.deletion import TopicDeleted, check_topic
from broker.kafka.offset_tracker import UNKNOWN, OffsetTracker, pack_state
from broker.kafka.offsets import KafkaOffsets

logger = logging.getLogger(__name__)

COMMIT_PAUSE_S = 0.02
FLUSH_S = 5.0
TRIM_EVERY_S = 30.0


class Committer:
    """Commits for the group of one queue. Without a group (`shared` is False) every commit is a no-op."""

    def __init__(self, offsets: KafkaOffsets, queue: str, assignment: Assignment, *, shared: bool) -> None:
        self._offsets = offsets
        self._queue = queue
        self._assignment = assignment
        self._shared = shared
        self._committing = asyncio.Lock()
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask `run` for a commit: something may have been settled."""
        self._requested.set()

    async def run(self) -> None:
        """Commit whenever it is requested, until the task is cancelled; also trim every `TRIM_EVERY_S` seconds."""
        trimmed = time.monotonic()
        while self._shared:
            await self._requested.wait()
            self._requested.clear()
            if not await self.commit(self._assignment.consumer, list(self._assignment.trackers.values())):
                self._requested.set()
            if time.monotonic() - trimmed > TRIM_EVERY_S:
                trimmed = time.monotonic()
                trackers = self._assignment.trackers.values()
                await self.trim({tracker.partition: tracker.committed.offset for tracker in trackers})
            await asyncio.sleep(COMMIT_PAUSE_S)

    async def flush(self) -> None:
        """Commit all that is settled; gives up after `FLUSH_S` seconds if Kafka accepts no commits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                while not await self.commit(self._assignment.consumer, list(self._assignment.trackers.values())):  # noqa: ASYNC110 - Kafka sends no event
                    await asyncio.sleep(COMMIT_PAUSE_S)

    async def commit_before_delivery(self, trackers: set[OffsetTracker], *, ahead: int) -> bool:
        """Before a delivery, commit that the records fetched last may have been delivered.

        In partitions without further records, the commit also covers the next `ahead` offsets: later records can then
        be delivered without another commit. Returns False if one of the partitions was lost meanwhile.
        """
        for tracker in trackers:
            tracker.extend_reach(ahead if ahead and not self._assignment.has_more(tracker) else 0)
        self._requested.set()
        while late := [each for each in trackers if each.committed_reach < each.position and not each.lost]:
            if not await self.commit(self._assignment.consumer, late):
                await asyncio.sleep(COMMIT_PAUSE_S)
        return not any(tracker.lost for tracker in trackers)

    async def commit(self, consumer: Any, trackers: Sequence[OffsetTracker], *, leaving: bool = False) -> bool:
        """Commit the states that changed; return False if Kafka did not accept the commit now."""
        if not self._shared or consumer is None:
            return True
        with contextlib.suppress(TopicDeleted):  # the trackers are marked as lost, so the next lines skip them
            check_topic(consumer, self._queue, trackers)
        async with self._committing:
            states = {tracker: tracker.state(leaving=leaving) for tracker in trackers if not tracker.lost}
            changed = {
                tracker: state
                for tracker, state in states.items()
                if state.offset != UNKNOWN and state != tracker.committed
            }
            if not changed:
                return True
            offsets = {
                tracker.partition: OffsetAndMetadata(state.offset, pack_state(state))
                for tracker, state in changed.items()
            }
            try:
                await consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                return False
            except KafkaError as exc:
                logger.info("%s: Kafka did not accept a commit of offsets (%s)", self._queue, type(exc).__name__)
                return False
            for tracker, state in changed.items():
                tracker.committed = state
            return True

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete the records before these offsets: Kafka itself never deletes records of a queue."""
        with contextlib.suppress(TryAgain):
            await self._offsets.trim({partition: offset for partition, offset in before.items() if offset > 0})
