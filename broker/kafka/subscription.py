"""Takes from a queue's topic, and reconnects after errors.

One task polls and fills the buffer (`fetcher.py`), a second one commits (`committer.py`), and a third one removes dead
members from the group while this process joins it (`membership.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiokafka.errors import KafkaError

from broker.errors import TryAgain
from broker.kafka.assignment import Assignment
from broker.kafka.cluster import KafkaCluster
from broker.kafka.committer import Committer
from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.fetcher import Bury, Fetcher
from broker.kafka.held_deliveries import HeldDeliveries
from broker.kafka.membership import GroupMembership
from broker.kafka.properties import unpack_message
from broker.messages import Delivery, Message
from broker.support.upkeep import Upkeep

logger = logging.getLogger(__name__)

RETRY_S = 0.3
CLOSE_S = 10.0
DRAIN_CHECK_S = 1.0


class KafkaSubscription:
    """The deliveries of one queue in this process. It waits for a topic that does not exist yet."""

    def __init__(
        self,
        cluster: KafkaCluster,
        upkeep: Upkeep,
        queue: str,
        prefetch: int,
        *,
        shared: bool,
        bury: Bury,
        unpack: Callable[..., Message] = unpack_message,
    ) -> None:
        """`shared` is True for a queue with a group; a transient queue is read by this process alone."""
        self._topology = cluster.topology
        self._upkeep = upkeep
        self._queue = queue
        self.trouble = "it has not subscribed yet"
        assignment = Assignment()
        self._buffer = DeliveryBuffer()
        self._committer = Committer(cluster.offsets, queue, assignment, shared=shared)
        self._held = HeldDeliveries(assignment, self._buffer, self._committer)
        self._membership = GroupMembership(
            cluster,
            queue,
            shared=shared,
            assignment=assignment,
            buffer=self._buffer,
            committer=self._committer,
            held=self._held,
            on_assigned=self._clear_trouble,
        )
        self._fetcher = Fetcher(
            queue,
            prefetch,
            shared=shared,
            assignment=assignment,
            buffer=self._buffer,
            committer=self._committer,
            held=self._held,
            bury=bury,
            unpack=unpack,
        )
        self._task = asyncio.create_task(self._run(), name=f"subscription to {queue}")
        self._task.add_done_callback(lambda _: self._buffer.wake())

    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` deliveries; none once stopped and drained."""
        while not self._buffer:
            if self._task.done() and not self._task.cancelled() and (error := self._task.exception()):
                raise error
            if self._held.stopping or self._task.done():
                return []
            await self._buffer.wait()
        return self._buffer.pop(limit)

    async def flush(self) -> None:
        """Commit all that is settled; gives up after a few seconds if Kafka accepts no commits."""
        await self._committer.flush()

    def resize(self, prefetch: int) -> None:
        """Change the number of deliveries that may be held."""
        self._fetcher.resize(prefetch)

    def stop(self) -> None:
        """Fetch no more; leave the group once all held deliveries are settled."""
        self._held.stopping = True
        self._held.note_change()
        self._buffer.wake()

    async def close(self) -> None:
        """Give back all held deliveries, and leave the group."""
        self._held.stopping = self._held.closing = True
        self._held.note_change()
        await asyncio.wait((self._task,), timeout=CLOSE_S)

    async def _run(self) -> None:
        while not self._held.stopping:
            if not await self._topology.exists(self._queue):
                self.trouble = f"there is no topic {self._queue}"
                self._upkeep.suspect([self._queue])
                await self._held.wait_changed(RETRY_S)
                continue
            side_tasks: list[asyncio.Task[None]] = []
            try:
                await self._membership.join()
                side_tasks = self._start_side_tasks()
                await self._fetcher.run()
                await self._drain()
            except (KafkaError, TryAgain, OSError) as exc:
                logger.info("%s: %s; trying again", self._queue, type(exc).__name__)
                self._buffer.drop_lost()
                self.trouble = f"{self._queue} cannot be read ({type(exc).__name__})"
                await self._held.wait_changed(RETRY_S)
            finally:
                for task in side_tasks:
                    task.cancel()
                await self._membership.leave()

    def _start_side_tasks(self) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(self._committer.run(), name=f"commits of {self._queue}"),
            asyncio.create_task(self._membership.dismiss_dead_members(), name=f"dead members of {self._queue}"),
        ]

    async def _drain(self) -> None:
        """Wait until all held deliveries are settled, or the subscription is closed."""
        while not self._held.closing and self._held.unsettled():
            await self._held.wait_changed(DRAIN_CHECK_S)

    def _clear_trouble(self) -> None:
        self.trouble = ""
