"""The owner of a delivery: the subscription's held deliveries, and the tracker of its partition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from broker.kafka.offset_tracker import OffsetTracker
from broker.messages import Delivery


class Holder(Protocol):
    """Settles the deliveries of one subscription."""

    def settle(self, tracker: OffsetTracker, offsets: Iterable[int]) -> None:
        """Mark deliveries as settled."""

    def give_back(self, tracker: OffsetTracker, deliveries: Sequence[Delivery]) -> None:
        """Requeue deliveries."""

    async def flush(self) -> None:
        """Commit all that is settled."""


def owner_of(delivery: Delivery) -> tuple[Holder, OffsetTracker]:
    """Return the holder that took a delivery, and the tracker of its partition at that time."""
    return cast("tuple[Holder, OffsetTracker]", delivery.consumer)


def tracker_of(delivery: Delivery) -> OffsetTracker:
    """Return the tracker of a delivery's partition at the time of the delivery."""
    return owner_of(delivery)[1]
