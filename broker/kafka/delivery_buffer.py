"""Deliveries that were fetched and not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from broker.kafka.delivery_owner import tracker_of
from broker.kafka.offset_tracker import OffsetTracker
from broker.messages import Delivery


class DeliveryBuffer:
    """The queue between the fetcher and `take`. The fetcher bounds it: it fetches only up to the prefetch."""

    def __init__(self) -> None:
        self._deliveries: deque[Delivery] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._deliveries)

    def pop(self, limit: int) -> list[Delivery]:
        """Remove and return the oldest deliveries, at most `limit`."""
        return [self._deliveries.popleft() for _ in range(min(limit, len(self._deliveries)))]

    async def wait(self) -> None:
        """Wait until deliveries are added or `wake` is called."""
        self._filled.clear()
        await self._filled.wait()

    def wake(self) -> None:
        """End all waits."""
        self._filled.set()

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        """Add deliveries in order."""
        self._deliveries.extend(deliveries)
        self._filled.set()

    def put_back(self, tracker: OffsetTracker, delivery: Delivery) -> None:
        """Add a requeued delivery, unless its partition is lost."""
        if not tracker.lost:
            self._deliveries.append(delivery)
            self._filled.set()

    def drop_lost(self) -> None:
        """Remove the deliveries of lost partitions: Kafka delivers them to the next owner."""
        self._deliveries = deque(delivery for delivery in self._deliveries if not tracker_of(delivery).lost)

    def withdraw(self) -> None:
        """Undo the delivery of records that were never taken, from the last one of each partition on.

        They stay fresh for the next owner. A delivery that cannot be undone stays in the buffer and can be taken.
        """
        kept: deque[Delivery] = deque()
        while self._deliveries:
            delivery = self._deliveries.pop()
            if delivery.came_back or not tracker_of(delivery).withdraw(delivery.tag):
                kept.appendleft(delivery)
        self._deliveries = kept
