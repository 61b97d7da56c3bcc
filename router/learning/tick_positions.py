"""Where in the log each tick was: so that a successor knows from where to read again."""

from __future__ import annotations

from collections.abc import Iterable

from broker.records.routing import LogPosition

LIMIT = 128


class TickPositions:
    """The places of ticks, the older ones ever fewer: who begins too early only reads more.

    With each goes when the newest request before it was accepted: by the clock of its gateway, which may be ahead.
    """

    def __init__(self, places: Iterable[tuple[LogPosition, int]], *, patience: int, dedupe_us: int) -> None:
        self._places = list(places)
        self._patience = patience
        self._dedupe_us = dedupe_us

    def add(self, place: LogPosition, newest_us: int) -> None:
        """Note the place behind a tick."""
        self._places.append((place, newest_us))
        if len(self._places) > LIMIT:
            start = self.both_horizons_before(place.number)
            kept = [one for one in self._places if one[0].offset >= start.offset]
            half = len(kept) // 2
            self._places = [*kept[:half:2], *kept[half:]]

    def both_horizons_before(self, tick: int) -> LogPosition:
        """Return the last place before which nothing has a part in what waits at `tick`, or the first one known.

        Feedback waits for at most one horizon, and a decision that it could have come too late for was seen at most
        the other one before.
        """
        closed = [one for one in self._places if one[0].number <= tick - self._patience - 1] or self._places[:1]
        oldest_us = closed[-1][0].at_us - self._dedupe_us
        before = [place for place, newest_us in closed if max(place.at_us, newest_us) <= oldest_us]
        return before[-1] if before else self._places[0][0]

    def written(self) -> list[list[int]]:
        """Return what JSON can hold."""
        return [[place.offset, place.number, place.at_us, newest_us] for place, newest_us in self._places]


def read_places(written: Iterable[Iterable[int]]) -> list[tuple[LogPosition, int]]:
    """Return what was written; raises ValueError or TypeError for anything else."""
    return [(LogPosition(offset=offset, number=number, at_us=at), newest) for offset, number, at, newest in written]
