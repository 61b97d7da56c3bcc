"""Takes from a topic: a member of its group, or alone.

One task polls and hands over, another commits. `getmany` is never cancelled: aiokafka would lose count of its polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from broker.errors import TryAgain
from broker.kafka.address import KafkaAddress
from broker.kafka.consumer_factory import consumer_of
from broker.kafka.dead_members import enter, is_dead, leave
from broker.kafka.deletion import TopicDeleted, check_topic
from broker.kafka.holding import claim_of
from broker.kafka.offset_tracker import UNKNOWN, CommittedState, OffsetTracker, pack_state
from broker.kafka.properties import unpack_message
from broker.kafka.records import UnreadableRecord
from broker.kafka.topology import KafkaTopology
from broker.kafka.window import pause_wide
from broker.messages import Delivery, Message
from broker.support.upkeep import Upkeep

LOG = logging.getLogger(__name__)
PREFETCH_LIMIT = 8192
AHEAD = 1  # offset that a commit allows for beyond what is delivered: at low load no message waits for a commit
POLL_MS = 100
COMMIT_PAUSE_S = 0.02
REVOKE_S = 8.0
RETRY_S = 0.3
DISMISS_S = 0.3
CLOSE_S = 5.0
TRIM_EVERY_S = 30.0
REQUEUE_PAUSE_S = 0.05
TOPIC_EVERY_S = 1.0  # a look at whether the topic is still there, while nothing else happens


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    """Owns a consumer of aiokafka's; starts it when the topic is there."""

    def __init__(
        self,
        address: KafkaAddress,
        topology: KafkaTopology,
        upkeep: Upkeep,
        queue: str,
        prefetch: int,
        *,
        shared: bool,
        bury: Callable[[str, list[tuple[Delivery, OffsetTracker]]], None],
        unpack: Callable[..., Message] = unpack_message,
    ) -> None:
        self._address = address
        self._topology = topology
        self._upkeep = upkeep
        self._queue = queue
        self.trouble = "it has not subscribed yet"
        self._prefetch = min(max(1, prefetch), PREFETCH_LIMIT)
        self._bury = bury  # what cannot be read
        self._unpack = unpack
        self._shared = shared  # by the members of a group; else all of it is ours, and nothing is committed
        self._arrivals: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._moved = asyncio.Event()  # something was settled, or asked for
        self._dirty = asyncio.Event()  # something may have to be committed
        self._assigned = asyncio.Event()  # the claims are those of the partitions that are read
        self._stopping = False
        self._closing = False
        self._returned: set[tuple[OffsetTracker, int]] = set()
        self._claims: dict[TopicPartition, OffsetTracker] = {}
        self._former: dict[TopicPartition, OffsetTracker] = {}
        self._paused: set[TopicPartition] = set()
        self._consumer: Any = None
        self._name = ""  # of the consumer in its group
        self._committing = asyncio.Lock()
        self._task = asyncio.create_task(self._run(), name=f"subscription to {queue}")
        self._task.add_done_callback(lambda _: self._arrived.set())

    # -- for the consumer

    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` deliveries; none once stopped and drained."""
        while not self._arrivals:
            if self._task.done() and not self._task.cancelled() and (error := self._task.exception()):
                raise error
            if self._stopping or self._task.done():
                return []
            self._arrived.clear()
            await self._arrived.wait()
        return [self._arrivals.popleft() for _ in range(min(limit, len(self._arrivals)))]

    def settle(self, claim: OffsetTracker, offsets: Iterable[int]) -> None:
        """Note deliveries as settled; those of a partition that is no longer ours come back anyhow."""
        for offset in offsets:
            claim.settle(offset)
        self._moved.set()
        self._dirty.set()

    def give_back(self, claim: OffsetTracker, deliveries: Sequence[Delivery]) -> None:
        """Let deliveries come again: here, unless nothing is taken here any more."""
        for delivery in deliveries:
            count = claim.came_back_again(delivery.tag)
            if count is None or claim.lost:
                continue
            if self._stopping:
                self._returned.add((claim, delivery.tag))
            else:
                again = Delivery(delivery.message, delivery.tag, count, delivery.consumer)
                asyncio.get_running_loop().call_later(REQUEUE_PAUSE_S, self._put_back, claim, again)
        self._moved.set()

    async def flush(self) -> None:
        """Commit what is settled; gives up after a while, when Kafka takes no commits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while not await self._commit(self._consumer, list(self._claims.values())):  # noqa: ASYNC110 - Kafka says
                    await asyncio.sleep(COMMIT_PAUSE_S)

    def resize(self, prefetch: int) -> None:
        """Change how much may be held."""
        self._prefetch = min(max(1, prefetch), PREFETCH_LIMIT)
        self._moved.set()

    def stop(self) -> None:
        """Fetch no more; leave the group once all that is held is settled."""
        self._stopping = True
        self._moved.set()
        self._arrived.set()

    async def close(self) -> None:
        """Give back what is held, and leave."""
        self._stopping = self._closing = True
        self._moved.set()
        await asyncio.wait((self._task,), timeout=2 * CLOSE_S)

    # -- the two tasks

    async def _run(self) -> None:
        while not self._stopping:
            if not await self._is_there():
                self.trouble = f"there is no topic {self._queue}"
                self._upkeep.suspect([self._queue])
                await self._wait_moved(RETRY_S)
                continue
            beside: list[asyncio.Task[None]] = []
            try:
                await self._start()
                beside.append(asyncio.create_task(self._keep_committing(), name=f"commits of {self._queue}"))
                beside.append(asyncio.create_task(self._dismiss_the_dead(), name=f"the dead of {self._queue}"))
                await self._poll()
                await self._drained()
            except (KafkaError, TryAgain, OSError) as exc:
                LOG.info("%s: %s; trying again", self._queue, type(exc).__name__)
                self._arrivals = deque(arrival for arrival in self._arrivals if not claim_of(arrival).lost)
                self.trouble = f"{self._queue} cannot be read ({type(exc).__name__})"
                await self._wait_moved(RETRY_S)
            finally:
                for task in beside:
                    task.cancel()
                await self._leave()

    async def _is_there(self, *, unknown: bool = False) -> bool:
        with contextlib.suppress(TryAgain):
            return await self._topology.partitions(self._queue, fresh=True) is not None
        return unknown

    async def _start(self) -> None:
        self._name = enter()
        consumer = consumer_of(self._address, self._name, self._queue if self._shared else None)
        self._consumer = consumer
        await consumer.start()
        if self._shared:
            consumer.subscribe([self._queue], listener=self)
            return
        partitions = await self._topology.partitions(self._queue) or 0
        mine = [TopicPartition(self._queue, number) for number in range(partitions)]
        consumer.assign(mine)
        for partition in mine:
            await consumer.seek_to_beginning(partition)
        self._claims = {partition: OffsetTracker(partition, CommittedState()) for partition in mine}
        self._assigned.set()
        self.trouble = ""

    async def _poll(self) -> None:
        while not self._stopping:
            room = self._prefetch - self._held()
            pause_wide(self._consumer, self._claims, self._paused)
            self._check_topic()
            if room <= 0:
                await self._wait_moved(TOPIC_EVERY_S)
                continue
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=room)
            self._check_topic()
            if fetched and not self._stopping:
                await self._hand_over(fetched)

    def _check_topic(self) -> None:
        if self._assigned.is_set():
            check_topic(self._consumer, self._queue, self._claims.values())

    async def _hand_over(self, fetched: dict[TopicPartition, list[Any]]) -> None:
        await self._assigned.wait()  # aiokafka reads a new partition while we still ask what is settled in it
        claims: set[OffsetTracker] = set()
        arrivals: list[Delivery] = []
        for partition, records in fetched.items():
            claim = self._claims.get(partition)
            if claim is not None:
                claims.add(claim)
                holder = (self, claim)
                arrivals += [
                    Delivery(self._unpack(self._queue, record.headers, record.value), record.offset, came_back, holder)
                    for record, came_back in claim.admit(records)
                ]
        if self._shared and not await self._cover(claims):
            lost = {claim for claim in claims if claim.lost}
            arrivals = [arrival for arrival in arrivals if claim_of(arrival) not in lost]
        unreadable = [arrival for arrival in arrivals if type(arrival.message.body) is UnreadableRecord]
        if unreadable:
            arrivals = [arrival for arrival in arrivals if type(arrival.message.body) is not UnreadableRecord]
            self._bury(self._queue, [(arrival, claim_of(arrival)) for arrival in unreadable])
        if arrivals:
            self._arrivals.extend(arrivals)
            self._arrived.set()

    async def _cover(self, claims: set[OffsetTracker]) -> bool:
        """Commit that these may have been delivered, before they are; False when one is not ours any more."""
        for claim in claims:
            claim.cover(AHEAD if self._prefetch > 1 and not self._lags(claim) else 0)
        self._dirty.set()
        while late := [claim for claim in claims if claim.committed_reach < claim.position and not claim.lost]:
            if not await self._commit(self._consumer, late):
                await asyncio.sleep(COMMIT_PAUSE_S)
        return not any(claim.lost for claim in claims)

    def _lags(self, claim: OffsetTracker) -> bool:
        """Tell whether more waits than was fetched: then what a kill brings back is to be exactly what was held."""
        return int(self._consumer.highwater(claim.partition) or 0) > claim.position

    async def _keep_committing(self) -> None:
        trimmed = time.monotonic()
        while self._shared:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._commit(self._consumer, list(self._claims.values())):
                self._dirty.set()
            if time.monotonic() - trimmed > TRIM_EVERY_S:
                trimmed = time.monotonic()
                await self._trim({claim.partition: claim.committed.offset for claim in self._claims.values()})
            await asyncio.sleep(COMMIT_PAUSE_S)

    async def _dismiss_the_dead(self) -> None:
        """Until the group has let us in: it waits for its members, and some may never answer."""
        while self._shared and not self._assigned.is_set():
            with contextlib.suppress(TryAgain):
                if gone := await self._topology.dismiss(self._queue, is_dead):
                    LOG.info("%s: %d members of this machine had ended, and have left", self._queue, gone)
            await asyncio.sleep(DISMISS_S)

    async def _trim(self, before: dict[TopicPartition, int]) -> None:
        """Remove what is settled: Kafka keeps it for ever otherwise."""
        with contextlib.suppress(TryAgain):
            await self._topology.trim({partition: offset for partition, offset in before.items() if offset > 0})

    async def _commit(self, consumer: Any, claims: Sequence[OffsetTracker], *, leaving: bool = False) -> bool:
        """Commit what changed; False if Kafka did not take it now."""
        if not self._shared or consumer is None:
            return True
        with contextlib.suppress(TopicDeleted):  # its claims are lost, and nothing of them is committed
            check_topic(consumer, self._queue, claims)
        async with self._committing:
            states = {claim: claim.state(leaving=leaving) for claim in claims if not claim.lost}
            changed = {
                claim: state for claim, state in states.items() if state.offset != UNKNOWN and state != claim.committed
            }
            if not changed:
                return True
            offsets = {
                claim.partition: OffsetAndMetadata(state.offset, pack_state(state)) for claim, state in changed.items()
            }
            try:
                await consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError):
                return False
            except KafkaError as exc:
                LOG.info("%s: a commit failed (%s)", self._queue, type(exc).__name__)
                return False
            for claim, state in changed.items():
                claim.committed = state
            return True

    # -- partitions come and go

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Finish what is in hand; what is not finished in time comes back to whoever is next."""
        del revoked
        self._assigned.clear()
        self._withdraw_arrivals()
        claims = list(self._claims.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._closing else REVOKE_S):
                while self._awaited():
                    await self._wait_moved(COMMIT_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if await self._is_there(unknown=True):  # else no commit would ever succeed
                    await self._commit(self._consumer, claims, leaving=True)
        self._former, self._claims = self._claims, {}

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Read what was committed; a partition that nobody else had meanwhile is simply gone on with."""
        states = await self._committed(list(assigned))
        former, self._former = self._former, {}
        for partition in assigned:
            state = states[partition]
            before = former.pop(partition, None)
            if before is not None and before.outstanding and state.nonce == before.nonce:
                self._claims[partition] = before
                self._consumer.seek(partition, before.position)
            else:
                if before is not None:
                    before.lost = True
                self._claims[partition] = OffsetTracker(partition, state)
        for claim in former.values():
            claim.lost = True
        self._arrivals = deque(arrival for arrival in self._arrivals if not claim_of(arrival).lost)
        self._paused.clear()
        self._assigned.set()
        self.trouble = ""
        self._moved.set()

    async def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, CommittedState]:
        """Ask until Kafka says it: aiokafka goes on after an error here, with partitions that nobody reads."""
        while not self._closing:
            try:
                return await self._topology.committed(self._queue, partitions)
            except TryAgain:
                await asyncio.sleep(RETRY_S)
        return dict.fromkeys(partitions, CommittedState())

    def _withdraw_arrivals(self) -> None:
        """Take back what nobody has seen, from the last on: it stays fresh. The rest is still here to be taken."""
        kept: deque[Delivery] = deque()
        while self._arrivals:
            arrival = self._arrivals.pop()
            if arrival.came_back or not claim_of(arrival).withdraw(arrival.tag):
                kept.appendleft(arrival)
        self._arrivals = kept

    # -- the end

    async def _drained(self) -> None:
        """Wait until all that was handed over is settled."""
        while not self._closing and self._awaited():
            await self._wait_moved(1.0)

    async def _leave(self) -> None:
        if self._closing:
            self._withdraw_arrivals()
        self._assigned.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._commit(consumer, list(self._claims.values()), leaving=True)
        if not self._shared:  # nothing is committed: what is settled is removed, so that nobody meets it again
            await self._trim({partition: claim.first for partition, claim in self._claims.items()})
        for claim in self._claims.values():
            claim.lost = True
        self._claims = {}
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(CLOSE_S):
                await consumer.stop()
        leave(self._name)

    # -- small steps

    def _held(self) -> int:
        return sum(claim.outstanding for claim in self._claims.values())

    def _awaited(self) -> int:
        """Count what somebody may still settle: all but what was given back when nothing was taken any more."""
        returned = sum(claim.holds(offset) for claim, offset in self._returned if not claim.lost)
        return self._held() - returned

    def _put_back(self, claim: OffsetTracker, arrival: Delivery) -> None:
        if not claim.lost:
            self._arrivals.append(arrival)
            self._arrived.set()

    async def _wait_moved(self, timeout_s: float | None) -> None:
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()
