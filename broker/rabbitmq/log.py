"""Reads logs, which are streams here: from an offset on, and to find their ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from broker.base import Reader, Since
from broker.errors import Gap, Unreachable
from broker.messages import Record
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.frames import DELIVER, Contents
from broker.rabbitmq.properties import unpack_record
from broker.rabbitmq.session import Arrival
from broker.rabbitmq.subscription import SETTLE_S, RabbitSubscription
from broker.rabbitmq.topology import RabbitTopology
from broker.support.tasks import wait_for_event
from broker.support.upkeep import Upkeep

PREFETCH = 200
_CHUNK_LIMIT = 60_000  # records, more than a chunk can have
_EMPTY_AFTER_S = 1.0


class StreamSubscription(RabbitSubscription):
    """A subscription that continues after the last record that was read."""

    def __init__(
        self,
        connection: RabbitConnection,
        upkeep: Upkeep,
        topology: RabbitTopology,
        log: str,
        start: int | Since,
        timeout_s: float,
    ) -> None:
        self.start = start
        self.lost_at: int | None = None  # the next offset when the log was deleted, for the reader to raise a Gap
        self._topology = topology
        super().__init__(connection, upkeep, log, PREFETCH, timeout_s)

    async def _prepare(self) -> None:
        """Wait until a log is declared and ready.

        RabbitMQ 3.10 closes the connection of a client that consumes from a stream while it is being made.
        """
        if not await self._topology.exists(self._queue):
            raise NoQueue(f"the log {self._queue} is not declared yet")
        if self._was_missing:
            await asyncio.sleep(SETTLE_S)
        was_cancelled = self._session is not None and self._session.cancelled
        if (self._was_missing or was_cancelled) and isinstance(self.start, int) and self.start > 0:
            await self._check_end(self.start)

    async def _check_end(self, start: int) -> None:
        """Start at 0 if the log ends before the next expected record: it was deleted and made again."""
        if await end_of(self._topology, self._queue, self._timeout_s) < start:
            self.lost_at, self.start = start, 0
            self._buffer.filled.set()

    def _has_news(self) -> bool:
        return self.lost_at is not None

    def _arguments(self) -> dict[str, Any]:
        if isinstance(self.start, Since):
            return {"x-stream-offset": datetime.fromtimestamp(self.start.at_us // 1_000_000, UTC)}
        return {"x-stream-offset": self.start}


class StreamReader(Reader):
    """Reads records in order and raises `Gap` where some are gone.

    Offsets have holes, because the broker uses one up whenever it begins a new segment. So a jump is a `Gap` only if
    the stream now begins after the expected offset.
    """

    def __init__(self, log: str, subscription: StreamSubscription, topology: RabbitTopology, timeout_s: float) -> None:
        self._log = log
        self.subscription = subscription
        self._topology = topology
        self._timeout_s = timeout_s
        self._held: list[Record] = []  # the records after a gap

    async def read(self, limit: int) -> list[Record]:
        records, self._held = self._held[:limit], self._held[limit:]
        while not records:
            if not await self.subscription.wait():
                return []
            lost_at, self.subscription.lost_at = self.subscription.lost_at, None
            if lost_at is not None:
                raise Gap(self._log, lost_at, 0)
            records = self._pop(limit)
        return await self._until_gap(records)

    async def close(self) -> None:
        await self.subscription.close()

    def _pop(self, limit: int) -> list[Record]:
        arrivals = self.subscription.pop(limit)
        if arrivals:
            arrivals[-1].session.ack([arrival.tag for arrival in arrivals])
        start = self.subscription.start
        # A stream delivers whole chunks, with the records before the wanted one.
        return [record for record in map(_record, arrivals) if isinstance(start, Since) or record.offset >= start]

    async def _until_gap(self, records: list[Record]) -> list[Record]:
        for at, record in enumerate(records):
            expected = self.subscription.start
            if isinstance(expected, int) and record.offset > expected and await self._begins_after(expected):
                self._held = records[at:] + self._held
                if at:
                    return records[:at]
                self.subscription.start = record.offset
                raise Gap(self._log, expected, record.offset)
            self.subscription.start = record.offset + 1
        return records

    async def _begins_after(self, offset: int) -> bool:
        first = await first_of(self._topology, self._log, self._timeout_s)
        return first is None or first > offset


def _record(arrival: Arrival) -> Record:
    offset, headers = unpack_record(arrival.properties)
    return Record(offset, arrival.body, headers)


async def first_of(topology: RabbitTopology, log: str, timeout_s: float) -> int | None:
    """Return the offset of the oldest record; None if there is none."""
    edge = _Edge()
    async with await topology.channel(f"finding the beginning of {log}") as channel:
        await edge.consume(channel, log, "first", timeout_s)
    return edge.first


async def end_of(topology: RabbitTopology, log: str, timeout_s: float) -> int:
    """Return an offset after the last record and not after the next one.

    AMQP has no call for it, so the last chunk is read. The broker sends a chunk at once: after its first record has
    arrived, the answer to any later call arrives after its last one. A stream that delivers nothing is empty.
    """
    edge = _Edge()
    async with await topology.channel(f"finding the end of {log}") as channel:
        if await edge.consume(channel, log, "last", timeout_s):
            await channel.call("basic_qos", prefetch_count=1)
        # The count lags by seconds, so it cannot be used alone, but it tells a slow stream from an empty one.
        elif await topology.ready(log):
            raise Unreachable(f"finding the end of {log}: the broker has not delivered its last records in time")
    return 0 if edge.last is None else edge.last + 1


class _Edge(Contents):
    """Notes the offsets of the arriving records."""

    CONTENT = DELIVER

    def __init__(self) -> None:
        super().__init__()
        self.first: int | None = None
        self.last: int | None = None
        self._arrived = asyncio.Event()

    async def consume(self, channel: Channel, log: str, edge: str, timeout_s: float) -> bool:
        """Consume from an edge of the log ("first" or "last"); return True if a record has arrived."""
        channel.take_frames(self)
        await channel.call("basic_qos", prefetch_count=_CHUNK_LIMIT if edge == "last" else 1)
        arguments = {"x-stream-offset": edge}
        await channel.call("basic_consume", queue=log, on_message_callback=_unused, arguments=arguments)
        await wait_for_event(self._arrived, min(_EMPTY_AFTER_S, timeout_s))
        return self.last is not None

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        self.last = unpack_record(properties)[0]
        self.first = self.last if self.first is None else self.first
        self._arrived.set()


def _unused(*_: object) -> None:
    """The callback that pika requires."""
