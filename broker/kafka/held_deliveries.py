"""All deliveries of one subscription that are not settled: those in the buffer and those that were taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from broker.kafka.assignment import Assignment
from broker.kafka.committer import Committer
from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.offset_tracker import OffsetTracker
from broker.messages import Delivery
from broker.support.tasks import wait_for_event

REQUEUE_PAUSE_S = 0.05


class HeldDeliveries:
    """Settles deliveries and gives them back. `changed` is set after each change."""

    def __init__(self, assignment: Assignment, buffer: DeliveryBuffer, committer: Committer) -> None:
        self._assignment = assignment
        self._buffer = buffer
        self._committer = committer
        self._returned: set[tuple[OffsetTracker, int]] = set()
        self._changed = asyncio.Event()
        self.stopping = False  # nothing more is fetched; held deliveries may still be taken and settled
        self.closing = False  # nothing more will be settled

    def settle(self, tracker: OffsetTracker, offsets: Iterable[int]) -> None:
        """Mark deliveries as settled. Those of a lost partition are delivered again to its next owner."""
        for offset in offsets:
            tracker.settle(offset)
        self._changed.set()
        self._committer.request()

    def give_back(self, tracker: OffsetTracker, deliveries: Sequence[Delivery]) -> None:
        """Requeue deliveries: in this process, or, once it is stopping, for the next owner of the partition."""
        for delivery in deliveries:
            count = tracker.requeue(delivery.tag)
            if count is None or tracker.lost:
                continue
            if self.stopping:
                self._returned.add((tracker, delivery.tag))
            else:
                again = Delivery(delivery.message, delivery.tag, count, delivery.consumer)
                asyncio.get_running_loop().call_later(REQUEUE_PAUSE_S, self._buffer.put_back, tracker, again)
        self._changed.set()

    async def flush(self) -> None:
        """Commit all that is settled."""
        await self._committer.flush()

    def unsettled(self) -> int:
        """Count the deliveries that the application may still settle.

        These are all held deliveries except those that were given back while the subscription was stopping.
        """
        returned = sum(tracker.holds(offset) for tracker, offset in self._returned if not tracker.lost)
        return self._assignment.outstanding - returned

    def note_change(self) -> None:
        """End the current `wait_changed`."""
        self._changed.set()

    async def wait_changed(self, timeout_s: float) -> None:
        """Wait for the next change, at most `timeout_s` seconds."""
        self._changed.clear()
        await wait_for_event(self._changed, timeout_s)
