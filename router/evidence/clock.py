"""The clock of a log without ticks: no learner appends any for a policy that learns nothing."""

from __future__ import annotations

from broker.messages import Record
from broker.records.routing import Tick, write_tick
from router.learning.fold import JUMP_LIMIT


class LogClock:
    """Makes ticks from the times in records. A pause longer than `patience` ticks counts as `patience` + 1 ticks.

    Times after `until_us`, the time of reading, are wrong and are ignored.
    """

    def __init__(self, patience: int, until_us: int) -> None:
        self._patience = patience
        self._until_us = until_us
        self._number = 0
        self._at_us = 0

    def passed(self, at_us: int, offset: int) -> list[Record]:
        """Return the ticks up to a time, as records at an offset."""
        if not 0 < at_us <= self._until_us or at_us < self._at_us + 1_000_000:
            return []
        seconds = (at_us - self._at_us) // 1_000_000 if self._at_us else 1
        self._at_us = self._at_us + seconds * 1_000_000 if self._at_us else at_us
        last = self._number + min(seconds, self._patience + 1)
        found = list[Record]()
        while self._number < last:
            self._number = min(last, self._number + JUMP_LIMIT)
            body, headers = write_tick(Tick(number=self._number, at_us=self._at_us))
            found.append(Record(offset + len(found), body, headers))
        return found
