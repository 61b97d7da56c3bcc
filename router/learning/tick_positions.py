"""The log position of each tick, so that a successor knows from where to read again."""

from __future__ import annotations

from collections.abc import Iterable

from broker.records.routing import LogPosition

LIMIT = 128


class TickPositions:
    """Positions of ticks, thinned out with age: starting earlier than needed only costs reading time.

    Each position comes with the accept time of the newest request before it (microseconds), by the clock of that
    request's gateway, which may be ahead.
    """

    def __init__(self, positions: Iterable[tuple[LogPosition, int]], *, patience: int, dedupe_us: int) -> None:
        self._positions = list(positions)
        self._patience = patience
        self._dedupe_us = dedupe_us

    def add(self, position: LogPosition, newest_us: int) -> None:
        """Add the position after a tick; beyond `LIMIT` positions every second one of the older half is dropped."""
        self._positions.append((position, newest_us))
        if len(self._positions) > LIMIT:
            start = self.both_horizons_before(position.number)
            kept = [one for one in self._positions if one[0].offset >= start.offset]
            half = len(kept) // 2
            self._positions = [*kept[:half:2], *kept[half:]]

    def both_horizons_before(self, tick: int) -> LogPosition:
        """Return the last position before which no record affects the joins open at `tick`, or the first one known.

        Feedback waits for at most one horizon, and a decision that it could have come too late for was seen at most
        the other horizon before.
        """
        closed = [one for one in self._positions if one[0].number <= tick - self._patience - 1] or self._positions[:1]
        oldest_us = closed[-1][0].at_us - self._dedupe_us
        before = [position for position, newest_us in closed if max(position.at_us, newest_us) <= oldest_us]
        return before[-1] if before else self._positions[0][0]

    def written(self) -> list[list[int]]:
        """Return the positions as JSON."""
        return [[one.offset, one.number, one.at_us, newest_us] for one, newest_us in self._positions]


def read_positions(written: Iterable[Iterable[int]]) -> list[tuple[LogPosition, int]]:
    """Return the positions from `TickPositions.written`; raises ValueError or TypeError for anything else."""
    return [(LogPosition(offset=offset, number=number, at_us=at), newest) for offset, number, at, newest in written]
