"""Publishes messages in batches of one partition each."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from broker.base import MESSAGE_LIMIT_BYTES, ladder_step_s
from broker.errors import TryAgain, Unreachable
from broker.kafka.cluster import KafkaCluster
from broker.kafka.limits import QueueLevels
from broker.kafka.properties import (
    DELAYED_TO,
    DELAYED_UNTIL,
    Headers,
    pack_headers,
    split_address,
)
from broker.kafka.topology import MESSAGE_BYTES
from broker.messages import FULL, NO_QUEUE, SAFE, TOO_LARGE, UNKNOWN, Message, Outcome
from broker.protocol.ids import now_us
from broker.support.tasks import Tasks

BATCH_BYTES = 512 * 1024
HEADERS_LIMIT_BYTES = 512 * 1024
CLOSE_S = 5.0
_Sending = tuple[list[int], Any]
"""The indexes of the messages in a batch, and the future of its confirm."""


class KafkaPublisher:
    """Owns the producer and replaces a broken one."""

    def __init__(
        self,
        cluster: KafkaCluster,
        levels: QueueLevels,
        delays: Sequence[str],
        timeout_s: float,
    ):
        self._address = cluster.address
        self._topology = cluster.topology
        self._levels = levels
        self._delays = delays  # topics, one for each step of the delay ladder
        self._timeout_s = timeout_s
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._turns: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._tasks = Tasks()
        self._turn = count(random.randrange(1 << 16))  # noqa: S311 - the first partition is no secret

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish and return one outcome per message.

        Messages without a confirm in time are `UNKNOWN`, because aiokafka still tries to send them.
        """
        outcomes: list[Outcome] = [UNKNOWN] * len(messages)
        producer = await self._open()
        by_topic: dict[str, list[int]] = {}
        for at, message in enumerate(messages):
            by_topic.setdefault(message.queue if message.delay_s <= 0 else f"\n{message.queue}", []).append(at)
        sendings = await asyncio.gather(
            *[self._send(producer, [messages[at] for at in ats], ats, outcomes) for ats in by_topic.values()]
        )
        await self._confirm([sending for each in sendings for sending in each], outcomes)
        return outcomes

    async def publish_keyed(self, topic: str, key: bytes, value: bytes) -> None:
        """Publish one record of a compacted topic; raises Unreachable."""
        producer = await self._open()
        try:
            async with asyncio.timeout(self._timeout_s):
                await producer.send_and_wait(topic, value, key=key)
        except (KafkaError, TimeoutError, OSError) as exc:
            raise self._address.unreachable() from exc

    async def close(self) -> None:
        """Flush for at most `CLOSE_S` seconds, and stop the producer."""
        async with self._opening:
            self._closed = True
        await self._drop(self._producer)
        self._producer = None
        await self._tasks.drain()

    async def _open(self) -> Any:
        async with self._opening:
            if self._closed:
                raise Unreachable("this connection to Kafka is closed")
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._address.arguments,
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=0,
                    max_batch_size=BATCH_BYTES,
                    max_request_size=MESSAGE_BYTES,
                )
                try:
                    await producer.start()
                except (KafkaError, OSError) as exc:
                    await self._drop(producer)
                    raise self._address.unreachable() from exc
                self._producer = producer
            return self._producer

    async def _drop(self, producer: Any) -> None:
        if producer is not None:
            with contextlib.suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(CLOSE_S):
                    await producer.stop()

    async def _send(
        self, producer: Any, messages: list[Message], ats: list[int], outcomes: list[Outcome]
    ) -> list[_Sending]:
        """Hand the messages for one queue to the producer; set the outcomes of refused ones at once."""
        topic, chosen = split_address(messages[0].queue)
        try:
            number = await self._topology.partitions(topic)
            if not number or (chosen or 0) >= number:
                for at in ats:
                    outcomes[at] = NO_QUEUE
                return []
            room = await self._levels.room(topic, messages)
        except TryAgain:  # other queues' messages may be sent already, so these are unknown, too
            return []
        for at in ats[room:]:
            outcomes[at] = FULL
        if messages[0].delay_s > 0:
            return await self._send_delayed(producer, messages[:room], ats, outcomes)
        if chosen is None:  # a log is read only from its first partition
            chosen = 0 if self._topology.is_log(topic) else next(self._turn) % number
        return await self._batches(producer, topic, chosen, messages[:room], ats, outcomes)

    async def _send_delayed(
        self, producer: Any, messages: list[Message], ats: list[int], outcomes: list[Outcome]
    ) -> list[_Sending]:
        sendings: list[_Sending] = []
        for message, at in zip(messages, ats, strict=False):
            step_s = ladder_step_s(message.delay_s)
            topic = next(name for name in self._delays if name.endswith(f".{round(step_s * 1000)}"))
            extra = [(DELAYED_TO, message.queue.encode()), (DELAYED_UNTIL, b"%d" % (now_us() + round(step_s * 1e6)))]
            sendings += await self._batches(producer, topic, 0, [replace(message, delay_s=0.0)], [at], outcomes, extra)
        return sendings

    async def _batches(
        self,
        producer: Any,
        topic: str,
        partition: int,
        messages: Sequence[Message],
        ats: Sequence[int],
        outcomes: list[Outcome],
        extra: Sequence[tuple[str, bytes]] = (),
    ) -> list[_Sending]:
        """Fill batches and hand them to the producer, in order."""
        sendings: list[_Sending] = []
        batch = producer.create_batch()
        inside: list[int] = []
        for message, at in zip(messages, ats, strict=False):
            headers = [*pack_headers(message), *extra]
            if _is_too_large(message, headers):
                outcomes[at] = TOO_LARGE
                continue
            if batch.append(timestamp=None, key=None, value=message.body, headers=headers) is None:
                sendings += await self._hand(producer, batch, topic, partition, inside)
                batch, inside = producer.create_batch(), []
                batch.append(timestamp=None, key=None, value=message.body, headers=headers)
            inside.append(at)
        return sendings + await self._hand(producer, batch, topic, partition, inside)

    async def _hand(self, producer: Any, batch: Any, topic: str, partition: int, inside: list[int]) -> list[_Sending]:
        if not inside:
            return []
        batch.close()
        turn = self._turns.setdefault((topic, partition), asyncio.Lock())
        try:
            # One batch at a time: aiokafka wakes all waiting batches of a partition when one can be added, and adds
            # their waiting time again each time. 200 batches that wait for 1 s would time out as if it were 40 s.
            async with asyncio.timeout(self._timeout_s), turn:
                return [(inside, await producer.send_batch(batch, topic, partition=partition))]
        except (KafkaError, TimeoutError, OSError) as exc:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(exc)
            return [(inside, failed)]

    async def _confirm(self, sendings: Sequence[_Sending], outcomes: list[Outcome]) -> None:
        if sendings:
            await asyncio.wait([future for _, future in sendings], timeout=self._timeout_s)
        for inside, future in sendings:
            outcome = self._outcome(future)
            for at in inside:
                outcomes[at] = outcome

    def _outcome(self, future: Any) -> Outcome:
        if not future.done():
            future.add_done_callback(_retrieve_error)
            return UNKNOWN
        error = None if future.cancelled() else future.exception()
        if error is None:
            return UNKNOWN if future.cancelled() else SAFE
        if isinstance(error, (MessageSizeTooLargeError, RecordListTooLargeError)):
            return TOO_LARGE
        if isinstance(error, UnknownTopicOrPartitionError):
            return NO_QUEUE
        if not getattr(error, "retriable", False) and not isinstance(error, (TimeoutError, KafkaTimeoutError)):
            self._producer, broken = None, self._producer  # an idempotent producer cannot be used after these errors
            if broken is not None:
                self._tasks.spawn(self._drop(broken), "broken producer")
        return UNKNOWN


def _is_too_large(message: Message, headers: Headers) -> bool:
    size = sum([len(name) + len(value) for name, value in headers])
    return len(message.body) > MESSAGE_LIMIT_BYTES or size > HEADERS_LIMIT_BYTES


def _retrieve_error(future: Any) -> None:
    """Retrieve a late error, so that asyncio does not log it as never retrieved."""
    if not future.cancelled():
        future.exception()
