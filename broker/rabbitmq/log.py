"""Logs on streams: reading at an offset, and finding the end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from broker.base import Reader, Since
from broker.errors import Gap, Unreachable
from broker.messages import Record
from broker.rabbitmq.connection import Connection
from broker.rabbitmq.frames import DELIVER, Contents
from broker.rabbitmq.properties import unpack_record
from broker.rabbitmq.subscription import Arrival, Subscription
from broker.rabbitmq.topology import Topology

PREFETCH = 200
_CHUNK_LIMIT = 60_000  # records: more than a chunk can hold
_EMPTY_AFTER_S = 1.0


class StreamSubscription(Subscription):
    """A subscription that goes on behind the last record that was read."""

    def __init__(self, connection: Connection, log: str, start: int | Since, timeout_s: float) -> None:
        self.start = start
        super().__init__(connection, log, PREFETCH, timeout_s)

    async def _prepare(self) -> None:
        """A log that is not declared yet is waited for."""

    def _arguments(self) -> dict[str, Any]:
        if isinstance(self.start, Since):
            return {"x-stream-offset": datetime.fromtimestamp(self.start.at_us // 1_000_000, UTC)}
        return {"x-stream-offset": self.start}


class StreamReader(Reader):
    """Reads records in order, and says so when some are gone."""

    def __init__(self, log: str, subscription: StreamSubscription) -> None:
        self._log = log
        self.subscription = subscription

    async def read(self, limit: int) -> list[Record]:
        """Return the next 1 to `limit` records; after a `Gap` reading goes on behind it."""
        records: list[Record] = []
        while not records:
            if not await self.subscription.wait():
                return []
            self._take(limit, records)
        return records

    async def close(self) -> None:
        """Let the log go."""
        await self.subscription.close()

    def _take(self, limit: int, records: list[Record]) -> None:
        arrivals = self.subscription.pop(limit)
        try:
            for at, arrival in enumerate(arrivals):
                record = self._record(arrival)
                if self._is_gap(record.offset):
                    self.subscription.put_back(arrivals[at:])
                    del arrivals[at:]
                    self._raise_gap(record.offset, records)
                elif self._is_next(record.offset):
                    records.append(record)
                    self.subscription.start = record.offset + 1
        finally:
            _ack(arrivals)

    def _record(self, arrival: Arrival) -> Record:
        offset, headers = unpack_record(arrival.properties)
        return Record(offset, arrival.body, headers)

    def _is_gap(self, offset: int) -> bool:
        return isinstance(self.subscription.start, int) and offset > self.subscription.start

    def _is_next(self, offset: int) -> bool:
        # A stream delivers whole chunks: records before the wanted one come too.
        return isinstance(self.subscription.start, Since) or offset == self.subscription.start

    def _raise_gap(self, offset: int, records: list[Record]) -> None:
        """Raise, unless there are records to return first: the gap is met again then."""
        if records or not isinstance(self.subscription.start, int):
            return
        start, self.subscription.start = self.subscription.start, offset
        raise Gap(self._log, start, offset)


def _ack(arrivals: list[Arrival]) -> None:
    if arrivals:
        arrivals[-1].session.ack([arrival.tag for arrival in arrivals])


class _Last(Contents):
    """Notes the offset of what arrives."""

    CONTENT = DELIVER

    def __init__(self) -> None:
        super().__init__()
        self.offset: int | None = None
        self.arrived = asyncio.Event()

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:  # noqa: ARG002 - only the offset counts
        self.offset = unpack_record(properties)[0]
        self.arrived.set()


async def end_of(topology: Topology, log: str, timeout_s: float) -> int:
    """Return the offset behind the last record.

    No call of AMQP tells it, so the last chunk is read. The broker sends a chunk in one go: once the first record of it
    has arrived, the answer to any later call comes behind the last. A stream from which nothing comes is empty.
    """
    last = _Last()
    async with await topology.channel(f"finding the end of {log}") as channel:
        channel.take_frames(last)
        await channel.call("basic_qos", prefetch_count=_CHUNK_LIMIT)
        arguments = {"x-stream-offset": "last"}
        await channel.call("basic_consume", queue=log, on_message_callback=_unused, arguments=arguments)
        try:
            await asyncio.wait_for(last.arrived.wait(), min(_EMPTY_AFTER_S, timeout_s))
        except TimeoutError:
            await _check_empty(topology, log)
            return 0
        await channel.call("basic_qos", prefetch_count=1)
    return 0 if last.offset is None else last.offset + 1


async def _check_empty(topology: Topology, log: str) -> None:
    # The count lags by seconds, so it cannot be the first to ask; but it knows whether a slow stream holds anything.
    if await topology.ready(log):
        raise Unreachable(f"finding the end of {log}: the broker has not delivered its last records in time")


def _unused(*_: object) -> None:
    """Stand where pika wants a callback."""
