"""Counts malformed records on logs. Each one is skipped, and logged from time to time.

Any client that may write to a log can write malformed records there. They never end a process, and stay visible.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from broker.messages import Record

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0


class SkippedRecords:
    """Counts the skipped records by their kind."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_s: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, record: Record, error: object) -> None:
        """Count a malformed record, and log the error at most every `LOG_EVERY_S` for each kind."""
        self.counts[kind] += 1
        now = self._clock()
        if now - self._logged_s.get(kind, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_s[kind] = now
            text = " ".join(str(error).split())[:300]
            logger.warning("skipped the record at offset %d, which is no valid %s: %s", record.offset, kind, text)


SKIPPED = SkippedRecords()
"""The records that this process has skipped: one object for the whole process, like its logger."""
