"""Who took a delivery, and under which claim of a partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker.kafka.offset_tracker import OffsetTracker
from broker.messages import Delivery

if TYPE_CHECKING:
    from broker.kafka.subscription import KafkaSubscription


def holder_of(delivery: Delivery) -> tuple[KafkaSubscription, OffsetTracker]:
    """Return who took a delivery, and the claim that it was made under."""
    return cast("tuple[KafkaSubscription, OffsetTracker]", delivery.consumer)


def claim_of(delivery: Delivery) -> OffsetTracker:
    """Return the claim that a delivery was made under."""
    return holder_of(delivery)[1]
