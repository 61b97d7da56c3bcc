"""How a subscription joins the group of its queue, follows its rebalances, and leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from broker.errors import TryAgain
from broker.kafka.assignment import Assignment
from broker.kafka.cluster import KafkaCluster
from broker.kafka.committer import COMMIT_PAUSE_S, Committer
from broker.kafka.consumer_factory import consumer_of
from broker.kafka.dead_members import enter, is_dead, leave
from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.held_deliveries import HeldDeliveries
from broker.kafka.offset_tracker import CommittedState

logger = logging.getLogger(__name__)

REVOKE_S = 8.0
RETRY_S = 0.3
DISMISS_S = 0.3
CLOSE_S = 5.0


class GroupMembership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of a queue's group, with a new consumer after each `join`.

    A transient queue (`shared` is False) has no group: its only consumer reads all partitions and commits nothing.
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        queue: str,
        *,
        shared: bool,
        assignment: Assignment,
        buffer: DeliveryBuffer,
        committer: Committer,
        held: HeldDeliveries,
        on_assigned: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._shared = shared
        self._assignment = assignment
        self._buffer = buffer
        self._committer = committer
        self._held = held
        self._on_assigned = on_assigned
        self._name = ""  # the client id of the consumer: other processes use it to find dead members

    async def join(self) -> None:
        """Start a consumer and subscribe it; raises KafkaError or OSError if Kafka does not answer."""
        self._name = enter()
        consumer = consumer_of(self._cluster.address, self._name, self._queue if self._shared else None)
        self._assignment.consumer = consumer
        await consumer.start()
        if self._shared:
            consumer.subscribe([self._queue], listener=self)
            return
        number = await self._cluster.topology.partitions(self._queue) or 0
        partitions = [TopicPartition(self._queue, at) for at in range(number)]
        consumer.assign(partitions)
        for partition in partitions:
            await consumer.seek_to_beginning(partition)
        self._assignment.read_all(partitions)
        self._on_assigned()

    async def leave(self) -> None:
        """Commit, stop the consumer, and mark its partitions as lost; does nothing without a consumer."""
        if self._held.closing:
            self._buffer.withdraw()
        self._assignment.known.clear()
        consumer = self._assignment.detach()
        if consumer is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._committer.commit(consumer, list(self._assignment.trackers.values()), leaving=True)
        if not self._shared:  # nothing is committed: the settled records are deleted so that they are not read again
            trackers = self._assignment.trackers.items()
            await self._committer.trim({partition: tracker.first for partition, tracker in trackers})
        self._assignment.lose()
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(CLOSE_S):
                await consumer.stop()
        leave(self._name)

    async def dismiss_dead_members(self) -> None:
        """Remove dead members of this machine from the group until this member has its partitions.

        Kafka waits for every member to rejoin before it assigns partitions, and a dead one never does.
        """
        while self._shared and not self._assignment.known.is_set():
            with contextlib.suppress(TryAgain):
                if number := await self._cluster.groups.dismiss(self._queue, is_dead):
                    logger.info("%s: removed %d dead members of this machine from the group", self._queue, number)
            await asyncio.sleep(DISMISS_S)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Wait up to `REVOKE_S` seconds for held deliveries to be settled, then commit.

        Deliveries that are not settled by then are delivered again to the next owner.
        """
        del revoked
        self._assignment.known.clear()
        self._buffer.withdraw()
        trackers = list(self._assignment.trackers.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._held.closing else REVOKE_S):
                while self._held.unsettled():
                    await self._held.wait_changed(COMMIT_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if await self._cluster.topology.exists(
                    self._queue, if_unknown=True
                ):  # else no commit would ever succeed
                    await self._committer.commit(self._assignment.consumer, trackers, leaving=True)
        self._assignment.suspend()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Read the committed states and continue from them."""
        self._assignment.resume(await self._committed(list(assigned)))
        self._buffer.drop_lost()
        self._on_assigned()
        self._held.note_change()

    async def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, CommittedState]:
        """Ask until Kafka answers: after an error here, aiokafka would keep partitions that are never read."""
        while not self._held.closing:
            try:
                return await self._cluster.groups.committed(self._queue, partitions)
            except TryAgain:
                await asyncio.sleep(RETRY_S)
        return dict.fromkeys(partitions, CommittedState())
