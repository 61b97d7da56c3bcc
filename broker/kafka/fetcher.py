"""The poll loop: fetches records and puts them into the buffer as deliveries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiokafka import TopicPartition

from broker.kafka.assignment import Assignment
from broker.kafka.committer import Committer
from broker.kafka.deletion import poll_time
from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.delivery_owner import tracker_of
from broker.kafka.held_deliveries import HeldDeliveries
from broker.kafka.offset_tracker import OffsetTracker
from broker.kafka.records import UnreadableRecord
from broker.messages import Delivery, Message

PREFETCH_LIMIT = 8192
AHEAD = 1  # offset that a commit allows for after the delivered ones: at low load no message waits for a commit
POLL_MS = 100
CHECK_TOPIC_EVERY_S = 1.0  # while nothing is fetched because the prefetch is reached

Bury = Callable[[str, list[tuple[Delivery, OffsetTracker]]], None]


class Fetcher:
    """Keeps up to `prefetch` unsettled deliveries. Its `getmany` is never cancelled: aiokafka would miscount polls."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        *,
        shared: bool,
        assignment: Assignment,
        buffer: DeliveryBuffer,
        committer: Committer,
        held: HeldDeliveries,
        bury: Bury,
        unpack: Callable[..., Message],
    ) -> None:
        """`bury(queue, deliveries)` receives the records that cannot be read."""
        self._queue = queue
        self._prefetch = min(max(1, prefetch), PREFETCH_LIMIT)
        self._shared = shared
        self._assignment = assignment
        self._buffer = buffer
        self._committer = committer
        self._held = held
        self._bury = bury
        self._unpack = unpack

    def resize(self, prefetch: int) -> None:
        """Change the number of deliveries that may be held."""
        self._prefetch = min(max(1, prefetch), PREFETCH_LIMIT)
        self._held.note_change()

    async def run(self) -> None:
        """Fetch until the subscription is stopping; raises `TopicDeleted`, KafkaError or OSError."""
        while not self._held.stopping:
            room = self._prefetch - self._assignment.outstanding
            self._assignment.pause_full_windows()
            self._assignment.check_topic(self._queue)
            if room <= 0:
                await self._held.wait_changed(CHECK_TOPIC_EVERY_S)
                continue
            fetched = await self._assignment.consumer.getmany(timeout_ms=POLL_MS, max_records=room)
            self._assignment.check_topic(self._queue)
            if fetched and not self._held.stopping:
                await self._hand_over(fetched)

    async def _hand_over(self, fetched: dict[TopicPartition, list[Any]]) -> None:
        # aiokafka fetches from a new partition while its committed state is still being read.
        await self._assignment.known.wait()
        trackers: set[OffsetTracker] = set()
        arrivals: list[Delivery] = []
        for partition, records in fetched.items():
            tracker = self._assignment.trackers.get(partition)
            if tracker is not None:
                trackers.add(tracker)
                tracker.admitted_ms = poll_time(self._assignment.consumer, partition)
                owner = (self._held, tracker)
                arrivals += [
                    Delivery(self._unpack(self._queue, record.headers, record.value), record.offset, came_back, owner)
                    for record, came_back in tracker.admit(records)
                ]
        if self._shared and not await self._committer.commit_before_delivery(trackers, ahead=self._ahead):
            lost = {tracker for tracker in trackers if tracker.lost}
            arrivals = [arrival for arrival in arrivals if tracker_of(arrival) not in lost]
        unreadable = [arrival for arrival in arrivals if type(arrival.message.body) is UnreadableRecord]
        if unreadable:
            arrivals = [arrival for arrival in arrivals if type(arrival.message.body) is not UnreadableRecord]
            self._bury(self._queue, [(arrival, tracker_of(arrival)) for arrival in unreadable])
        if arrivals:
            self._buffer.extend(arrivals)

    @property
    def _ahead(self) -> int:
        """The offsets to commit ahead: none if one message is held at a time, so that a kill returns exactly that."""
        return AHEAD if self._prefetch > 1 else 0
