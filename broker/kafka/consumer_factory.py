"""The consumer that a subscription reads with: a member of a group, or one that reads alone."""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from broker.kafka.address import KafkaAddress

FETCH_WAIT_MS = 100  # a partition with records that wait here misses a fetch, and waits for the next one
REBALANCE_MS = 30_000
SESSION_MS = 10_000
HEARTBEAT_MS = 500
_NO_POLL_LIMIT_MS = 24 * 3600 * 1000  # who holds all it may does not poll; the session finds who is dead
_FETCH_BYTES = 16 * 1024 * 1024
_PARTITION_BYTES = 9 * 1024 * 1024


def consumer_of(address: KafkaAddress, name: str, group: str | None) -> Any:
    """Return a consumer that is not started yet: it commits what it is told to, and nothing else."""
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
        isolation_level="read_committed",  # a transaction that was aborted, or is open, is no message yet
        # A class of its own for each: it keeps its state there.
        partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
    )
