"""Records of our logs that are none: each is skipped, counted, and said from time to time.

Anybody who may write to a log can write nonsense there. It never ends a process, and it is not silent.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from broker.messages import Record

log = logging.getLogger(__name__)

SAY_EVERY_S = 30.0


class SkippedRecords:
    """Counts by kind of record."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_s: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, record: Record, why: object) -> None:
        """Count a record of a kind; say why it is none, at most every `SAY_EVERY_S` a kind."""
        self.counts[kind] += 1
        now = self._clock()
        if now - self._said_s.get(kind, -SAY_EVERY_S) >= SAY_EVERY_S:
            self._said_s[kind] = now
            text = " ".join(str(why).split())[:300]
            log.warning("a record is no %s and is skipped: offset %d: %s", kind, record.offset, text)


SKIPPED = SkippedRecords()
"""What this process has skipped: like its logger, one for the whole process."""
