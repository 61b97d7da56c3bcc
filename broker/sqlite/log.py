"""Reading a log of the embedded broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.base import Reader, Since
from broker.errors import Gap
from broker.messages import Record
from broker.sqlite import properties
from broker.support.database import Connection, Durability, fetch_all, fetch_one

if TYPE_CHECKING:
    from broker.sqlite.adapter import SqliteBroker

POLL_S = 0.5
FIRST = "SELECT min(offset) FROM records WHERE channel = ?"
SINCE = "SELECT min(offset) FROM records WHERE channel = ? AND at_us >= ?"
NEXT = "SELECT offset, body, properties FROM records WHERE channel = ? AND offset >= ? ORDER BY offset LIMIT ?"


class SqliteReader(Reader):
    """One place in a log."""

    def __init__(self, broker: SqliteBroker, log: str, start: int | Since) -> None:
        self._broker = broker
        self._log = log
        self._start = start
        self._wake: asyncio.Event | None = None

    async def read(self, limit: int) -> list[Record]:
        """See the port."""
        if self._wake is None:
            self._wake = await self._broker.listen(self._log)
        while True:
            self._wake.clear()
            records = await self._broker.database.run(lambda connection: self._next(connection, limit), Durability.READ)
            if records is None:
                self._broker.upkeep.suspect([self._log])
            elif records:
                self._start = records[-1].offset + 1
                return list(records)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """See the port."""
        if self._wake is not None:
            await self._broker.deafen(self._log, self._wake)
            self._wake = None

    def _next(self, connection: Connection, limit: int) -> list[Record] | None:
        """Return the next records; None if there is no such log."""
        found = fetch_one(connection, "SELECT id, next_offset FROM channels WHERE name = ?", (self._log,))
        if found is None:
            return None
        channel, end = found
        start = self._offset(connection, channel, end)
        if end < start:
            self._start = 0
            raise Gap(self._log, start, 0)
        rows = fetch_all(connection, NEXT, (channel, start, limit))
        first = rows[0][0] if rows else end
        if first > start and not isinstance(self._start, Since):
            self._start = first
            raise Gap(self._log, start, first)
        return [Record(offset, body, properties.unpack_headers(packed)) for offset, body, packed in rows]

    def _offset(self, connection: Connection, channel: int, end: int) -> int:
        if not isinstance(self._start, Since):
            return self._start
        found = fetch_one(connection, SINCE, (channel, self._start.at_us))[0]
        return end if found is None else int(found)
