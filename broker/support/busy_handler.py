"""The busy handler of a SQLite connection: waits for the write lock, and reports a process that holds it too long."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from broker.support.lock_holder import lock_holder

logger = logging.getLogger(__name__)

BUSY_S = 10.0
KNOWN_BUSY_S = 1.0  # once a process is known to hang, because reads wait for the writes before them
REPORT_AFTER_S = 3.0  # a commit of another process takes milliseconds, a checkpoint of a large file a second
REPORT_EVERY_S = 10.0
BUSY_PAUSE_S = 0.0005


class BusyHandler:
    """The busy handler: waits for other processes' commits in short steps, and reports a process that takes long.

    The steps of SQLite's own handler grow to 100 ms.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began_s = 0.0
        self._limit_s = BUSY_S
        self._locked_s: float | None = None  # the begin of the lock, over several waits
        self._next_report_s = 0.0
        self.lock_error = ""

    def wait(self, tries: int) -> bool:
        """Sleep for one step and return True to try again; return False to give up.

        SQLite calls it until the lock is free.
        """
        now_s = time.monotonic()
        if tries == 0:
            self._began_s, self._limit_s = now_s, KNOWN_BUSY_S if self.lock_error else BUSY_S
            self._locked_s = now_s if self._locked_s is None else self._locked_s
        if self._locked_s is not None and now_s - self._locked_s > REPORT_AFTER_S and now_s >= self._next_report_s:
            self._next_report_s = now_s + REPORT_EVERY_S
            self._report(now_s - self._locked_s)
        time.sleep(BUSY_PAUSE_S)
        return time.monotonic() - self._began_s < self._limit_s

    def note_free(self) -> None:
        """Note that the lock is free."""
        if self.lock_error:
            logger.warning("%s: its write lock is free again", self._path)
        self._locked_s, self._next_report_s, self.lock_error = None, 0.0, ""

    def _report(self, held_s: float) -> None:
        self.lock_error = (
            f"{self._path}: {lock_holder(self._path)} has held its write lock for {held_s:.0f} s, and nothing can be "
            "written: end that process if it hangs"
        )
        logger.warning("%s", self.lock_error)
