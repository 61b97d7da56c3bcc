"""Reads the rows of an event log; of several rows of a request the first one in the log counts."""

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
    """The status and the attempts of one row."""

    status: str
    attempts: int


@dataclass(slots=True)
class Rows:
    """The rows of an endpoint's event log."""

    first: dict[Key, Row] = field(default_factory=dict)
    copies: Counter[Key] = field(default_factory=Counter)

    @property
    def repeated(self) -> int:
        """The number of repeated rows."""
        return sum(self.copies.values()) - len(self.copies)

    def of(self, message_id: str) -> Row:
        """The row of a request, by its answer's message_id."""
        return self.first[uid_of(message_id), 0, 0]

    def missing(self, message_ids: Iterable[str]) -> int:
        """The number of requests without a row."""
        return sum((uid_of(message_id), 0, 0) not in self.first for message_id in message_ids)

    def fold(self, record: Record) -> None:
        """Add the rows of a record."""
        batch = read_event(record)
        if batch is None:
            return
        columns = [batch.column(name).to_pylist() for name in ("uid", "leg", "row", "status", "attempts")]
        for uid, leg, row, status, attempts in zip(*columns, strict=True):
            self.copies[uid, leg, row] += 1
            self.first.setdefault((uid, leg, row), Row(status, attempts))


async def read_rows(broker: Broker, endpoint: str, message_ids: Iterable[str]) -> Rows:
    """Read an endpoint's log from its start, to its end and until the given requests have rows.

    Returns the rows so far if no record arrives for SILENCE_S.
    """
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
        pass  # the caller counts missing rows
    finally:
        await reader.close()
    return rows
