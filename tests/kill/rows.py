"""The event log after a kill: one terminal row for each request, the first in log order counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.base import Broker
from broker.messages import Record
from broker.protocol.ids import uid_of
from broker.records.events import read_event

READ_AT_ONCE = 200
SILENCE_S = 20.0

Key = tuple[bytes, int, int]
"""(uid, leg, row)"""


@dataclass(frozen=True, slots=True)
class Row:
    """How one instance ended."""

    status: str
    attempts: int


@dataclass(slots=True)
class Rows:
    """What an endpoint's log says."""

    first: dict[Key, Row] = field(default_factory=dict)
    copies: Counter[Key] = field(default_factory=Counter)

    @property
    def repeated(self) -> int:
        """How many rows stand in the log again."""
        return sum(self.copies.values()) - len(self.copies)

    def of(self, message_id: str) -> Row:
        """Return the row of a request, by its answer's message_id."""
        return self.first[uid_of(message_id), 0, 0]

    def missing(self, message_ids: Iterable[str]) -> int:
        """Return how many requests have no row."""
        return sum((uid_of(message_id), 0, 0) not in self.first for message_id in message_ids)

    def fold(self, record: Record) -> None:
        """Add a record."""
        batch = read_event(record)
        if batch is None:
            return
        columns = [batch.column(name).to_pylist() for name in ("uid", "leg", "row", "status", "attempts")]
        for uid, leg, row, status, attempts in zip(*columns, strict=True):
            self.copies[uid, leg, row] += 1
            self.first.setdefault((uid, leg, row), Row(status, attempts))


async def read_rows(broker: Broker, endpoint: str, message_ids: Iterable[str]) -> Rows:
    """Read an endpoint's log from its beginning to its end, and on until the given requests have rows."""
    wanted, log, rows = list(message_ids), broker.channels.events(endpoint), Rows()
    reader, at = broker.read(log, 0), 0
    try:
        while at < await broker.end(log) or rows.missing(wanted):
            async with asyncio.timeout(SILENCE_S):
                records = await reader.read(READ_AT_ONCE)
            for record in records:
                rows.fold(record)
            at = records[-1].offset + 1
    except TimeoutError:
        pass  # the caller counts what is missing
    finally:
        await reader.close()
    return rows
