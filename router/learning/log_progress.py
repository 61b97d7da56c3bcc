"""How far an endpoint's event log is folded, the time of its clock, and the counts of its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker.messages import Record
from broker.records.routing import LogPosition
from router.learning.tick_positions import TickPositions

AHEAD_US = 30_000_000  # of the newest request: a learner whose clock is further ahead would find all requests late


class LogProgress:
    """All records before `offset` are folded; `tick` and `at_us` (microseconds) are the log's clock.

    `patience` is the longest horizon in ticks; rows may come twice within `dedupe_us`.
    """

    def __init__(self, *, patience: int, dedupe_us: int) -> None:
        self._patience = patience
        self.dedupe_us = dedupe_us
        self.counts: Counter[str] = Counter()
        self.last_body: bytes | None = None  # of the newest record
        self.begin(LogPosition(offset=0, number=0, at_us=0))

    def begin(self, position: LogPosition) -> None:
        """Start at a position; decisions that were accepted before it belong to other experiments of the endpoint."""
        self.offset, self.tick, self.at_us = position.offset, position.number, position.at_us
        self.counts_from, self.began_us = position.offset, position.at_us
        self.newest_us = position.at_us - AHEAD_US  # when the newest request was accepted
        self.set_positions([(position, position.at_us)])

    def advance(self, record: Record) -> None:
        """Note that a record is being folded."""
        self.offset, self.last_body = record.offset + 1, record.body

    def set_clock(self, at_us: int) -> None:
        """Move the clock forward to a tick's time, but not further than `AHEAD_US` beyond the newest request."""
        self.at_us = max(self.at_us, min(at_us, self.newest_us + AHEAD_US))

    @property
    def position(self) -> LogPosition:
        """Where the fold is."""
        return LogPosition(offset=self.offset, number=self.tick, at_us=self.at_us)

    @property
    def is_counting(self) -> bool:
        """Whether statistics change; they do not while joins are rebuilt from records before a checkpoint."""
        return self.offset > self.counts_from

    @property
    def oldest_us(self) -> int:
        """Requests accepted before this time are late: their uids may have been forgotten."""
        return self.at_us - self.dedupe_us

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        if self.is_counting:
            self.counts[name] += number

    # -- positions to rebuild from

    def note_tick(self, offset: int) -> None:
        """Remember the position of the current tick, whose next record is at `offset`."""
        position = LogPosition(offset=offset, number=self.tick, at_us=self.at_us)
        self._positions.add(position, self.newest_us)

    def set_positions(self, positions: Iterable[tuple[LogPosition, int]]) -> None:
        """Replace the remembered positions; each comes with the accept time of the newest request before it."""
        self._positions = TickPositions(positions, patience=self._patience, dedupe_us=self.dedupe_us)

    def rebuild_position(self) -> LogPosition:
        """Return the position from which a successor has to read to rebuild the open joins."""
        return self._positions.both_horizons_before(self.tick)

    def written_positions(self) -> list[list[int]]:
        """Return the remembered positions as JSON."""
        return self._positions.written()
