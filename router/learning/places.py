"""Where in the log each tick was: so that a successor knows from where to read again."""

from __future__ import annotations

from collections.abc import Iterable

from broker.routing import Place

LIMIT = 128


class Places:
    """The places of ticks, the older ones ever fewer: who begins too early only reads more."""

    def __init__(self, places: Iterable[Place], *, patience: int, dedupe_us: int) -> None:
        self._places = list(places)
        self._patience = patience
        self._dedupe_us = dedupe_us

    def add(self, place: Place) -> None:
        """Note the place behind a tick."""
        self._places.append(place)
        if len(self._places) > LIMIT:
            start = self.both_horizons_before(place.number)
            kept = [one for one in self._places if one.offset >= start.offset]
            half = len(kept) // 2
            self._places = [*kept[:half:2], *kept[half:]]

    def both_horizons_before(self, tick: int) -> Place:
        """Return the last place before which nothing has a part in what waits at `tick`, or the first one known.

        Feedback waits for at most one horizon, and a decision that it could have come too late for was seen at most
        the other one before.
        """
        closed = [one for one in self._places if one.number <= tick - self._patience - 1] or self._places[:1]
        oldest_us = closed[-1].at_us - self._dedupe_us
        return next((one for one in reversed(closed) if one.at_us <= oldest_us), self._places[0])

    def written(self) -> list[list[int]]:
        """Return what JSON can hold."""
        return [[place.offset, place.number, place.at_us] for place in self._places]
