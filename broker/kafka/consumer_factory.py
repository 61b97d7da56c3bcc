"""Makes the consumer of a subscription: a member of a group, or one that reads alone."""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from broker.kafka.address import KafkaAddress

FETCH_WAIT_MS = 100  # a partition whose fetched records were not all taken misses a fetch, and waits for the next one
REBALANCE_MS = 30_000
SESSION_MS = 10_000
HEARTBEAT_MS = 500
_NO_POLL_LIMIT_MS = 24 * 3600 * 1000  # a full consumer does not poll; the session timeout finds dead ones
_FETCH_BYTES = 16 * 1024 * 1024
_PARTITION_BYTES = 9 * 1024 * 1024


def consumer_of(address: KafkaAddress, name: str, group: str | None) -> Any:
    """Return a consumer that is not started yet, and that never commits by itself."""
    arguments = {**address.arguments, "client_id": name}
    return AIOKafkaConsumer(
        **arguments,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        fetch_max_bytes=_FETCH_BYTES,
        max_partition_fetch_bytes=_PARTITION_BYTES,
        max_poll_interval_ms=_NO_POLL_LIMIT_MS,
        rebalance_timeout_ms=REBALANCE_MS,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        isolation_level="read_committed",  # records of aborted and open transactions are not delivered
        # A class for each consumer, because the assignor keeps its state in the class.
        partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
    )
