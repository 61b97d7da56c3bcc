"""Logs on streams: reading at an offset, and finding the end."""

from __future__ import annotations

import asyncio
import contextlib
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
from broker.rabbitmq.subscription import SETTLE_S, Arrival, RabbitSubscription
from broker.rabbitmq.topology import RabbitTopology
from broker.support.upkeep import Upkeep

PREFETCH = 200
_CHUNK_LIMIT = 60_000  # records: more than a chunk can hold
_EMPTY_AFTER_S = 1.0


class StreamSubscription(RabbitSubscription):
    """A subscription that goes on behind the last record that was read."""

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
        self.lost_at: int | None = None  # where reading was when the log was deleted, until the reader is told
        self._topology = topology
        super().__init__(connection, upkeep, log, PREFETCH, timeout_s)

    async def _prepare(self) -> None:
        """Wait for a log that is not declared yet, and for it to settle down.

        RabbitMQ 3.10 ends the whole connection of who consumes from a stream while it is being made.
        """
        if not await self._topology.exists(self._queue):
            raise NoQueue(f"the log {self._queue} is not declared yet")
        if self._was_missing:
            await asyncio.sleep(SETTLE_S)
        if (self._was_missing or self._cancelled) and isinstance(self.start, int) and self.start > 0:
            await self._look_for_the_end(self.start)

    async def _look_for_the_end(self, start: int) -> None:
        """Begin at 0 if the log that is there now ends before the record that was to come."""
        if await end_of(self._topology, self._queue, self._timeout_s) < start:
            self.lost_at, self.start = start, 0
            self._arrived.set()

    def _has_news(self) -> bool:
        return self.lost_at is not None

    def _arguments(self) -> dict[str, Any]:
        if isinstance(self.start, Since):
            return {"x-stream-offset": datetime.fromtimestamp(self.start.at_us // 1_000_000, UTC)}
        return {"x-stream-offset": self.start}


class StreamReader(Reader):
    """Reads records in order, and says so when some are gone.

    Offsets have holes: the broker spends one whenever it begins a new segment. So a jump is a `Gap` only if the stream
    by now begins behind the offset that was expected.
    """

    def __init__(self, log: str, subscription: StreamSubscription, topology: RabbitTopology, timeout_s: float) -> None:
        self._log = log
        self.subscription = subscription
        self._topology = topology
        self._timeout_s = timeout_s
        self._held: list[Record] = []  # what came behind a gap

    async def read(self, limit: int) -> list[Record]:
        """Return the next 1 to `limit` records; after a `Gap` reading goes on behind it."""
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
        """Let the log go."""
        await self.subscription.close()

    def _pop(self, limit: int) -> list[Record]:
        arrivals = self.subscription.pop(limit)
        if arrivals:
            arrivals[-1].session.ack([arrival.tag for arrival in arrivals])
        start = self.subscription.start
        # A stream delivers whole chunks: records before the wanted one come too.
        return [record for record in map(_record, arrivals) if isinstance(start, Since) or record.offset >= start]

    async def _until_gap(self, records: list[Record]) -> list[Record]:
        for at, record in enumerate(records):
            expected = self.subscription.start
            if isinstance(expected, int) and record.offset > expected and await self._begins_behind(expected):
                self._held = records[at:] + self._held
                if at:
                    return records[:at]
                self.subscription.start = record.offset
                raise Gap(self._log, expected, record.offset)
            self.subscription.start = record.offset + 1
        return records

    async def _begins_behind(self, offset: int) -> bool:
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
    """Return an offset that lies behind the last record and not behind the next one.

    No call of AMQP tells it, so the last chunk is read. The broker sends a chunk in one go: once the first record of it
    has arrived, the answer to any later call comes behind the last. A stream from which nothing comes is empty.
    """
    edge = _Edge()
    async with await topology.channel(f"finding the end of {log}") as channel:
        if await edge.consume(channel, log, "last", timeout_s):
            await channel.call("basic_qos", prefetch_count=1)
        # The count lags by seconds, so it cannot be asked first; but it knows whether a slow stream holds anything.
        elif await topology.ready(log):
            raise Unreachable(f"finding the end of {log}: the broker has not delivered its last records in time")
    return 0 if edge.last is None else edge.last + 1


class _Edge(Contents):
    """Notes the offsets of what arrives."""

    CONTENT = DELIVER

    def __init__(self) -> None:
        super().__init__()
        self.first: int | None = None
        self.last: int | None = None
        self._arrived = asyncio.Event()

    async def consume(self, channel: Channel, log: str, edge: str, timeout_s: float) -> bool:
        """Begin at an edge of the log, and tell whether something has arrived."""
        channel.take_frames(self)
        await channel.call("basic_qos", prefetch_count=_CHUNK_LIMIT if edge == "last" else 1)
        arguments = {"x-stream-offset": edge}
        await channel.call("basic_consume", queue=log, on_message_callback=_unused, arguments=arguments)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_EMPTY_AFTER_S, timeout_s)):
                await self._arrived.wait()
        return self.last is not None

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        """Note an offset."""
        self.last = unpack_record(properties)[0]
        self.first = self.last if self.first is None else self.first
        self._arrived.set()


def _unused(*_: object) -> None:
    """Stand where pika wants a callback."""
