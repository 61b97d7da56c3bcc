"""Who took a delivery, and under which claim of a partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker.kafka.offset_tracker import Claim
from broker.messages import Delivery

if TYPE_CHECKING:
    from broker.kafka.subscription import Subscription


def holder_of(delivery: Delivery) -> tuple[Subscription, Claim]:
    """Return who took a delivery, and the claim that it was made under."""
    return cast("tuple[Subscription, Claim]", delivery.consumer)


def claim_of(delivery: Delivery) -> Claim:
    """Return the claim that a delivery was made under."""
    return holder_of(delivery)[1]
