"""Reading a log of the embedded broker."""

from __future__ import annotations

import asyncio

from broker.base import Reader, Since
from broker.errors import Gap
from broker.messages import Record
from broker.sqlite import properties
from broker.sqlite.session import SqliteSession
from broker.support.database import Connection, Durability, fetch_all, fetch_one
from broker.support.tasks import wait_for_event
from broker.support.upkeep import Upkeep

POLL_S = 0.5
FIRST = "SELECT min(offset) FROM records WHERE channel = ?"
SINCE = "SELECT min(offset) FROM records WHERE channel = ? AND at_us >= ?"
NEXT = "SELECT offset, body, properties FROM records WHERE channel = ? AND offset >= ? ORDER BY offset LIMIT ?"


class SqliteReader(Reader):
    """Reads one log from an offset or a time on."""

    def __init__(self, session: SqliteSession, upkeep: Upkeep, log: str, start: int | Since) -> None:
        self._session = session
        self._upkeep = upkeep
        self._log = log
        self._start = start
        self._wake: asyncio.Event | None = None

    async def read(self, limit: int) -> list[Record]:
        if self._wake is None:
            self._wake = await self._session.listen(self._log)
        while True:
            self._wake.clear()
            records = await self._session.database.run(
                lambda connection: self._next(connection, limit), Durability.READ
            )
            if records is None:
                self._upkeep.suspect([self._log])
            elif records:
                self._start = records[-1].offset + 1
                return list(records)
            await wait_for_event(self._wake, POLL_S)

    async def close(self) -> None:
        if self._wake is not None:
            await self._session.unlisten(self._log, self._wake)
            self._wake = None

    def _next(self, connection: Connection, limit: int) -> list[Record] | None:
        """Return the next records; None if the log does not exist."""
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
