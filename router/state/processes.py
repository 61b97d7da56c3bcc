"""The processes of the installation, by their heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker.records.status import SILENT_AFTER_S, Announcement

FORGET_AFTER_S = 600.0


class Processes:
    """The newest announcement of each process, and the content of each catalog."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pruned_s = clock()
        self.newest: dict[str, tuple[Announcement, float]] = {}
        """By instance: the announcement, and when it was sent (monotonic seconds)."""
        self.catalogs: dict[str, Mapping[str, Any]] = {}
        """By instance of the catalog: `models` with their version numbers, and `problems`."""

    def fold(self, announcement: Announcement, at_s: float) -> None:
        """Fold an announcement that was sent at `at_s` (monotonic seconds)."""
        now_s = self._clock()
        self.newest[announcement.instance] = (announcement, at_s)
        if now_s - self._pruned_s > FORGET_AFTER_S:
            self._pruned_s = now_s
            self.newest = {name: one for name, one in self.newest.items() if now_s - one[1] < FORGET_AFTER_S}
        if announcement.part == "catalog":
            self._fold_catalog(announcement)

    def live(self) -> list[tuple[Announcement, float]]:
        """Return the newest announcements of the processes that are neither silent nor stopped, with their times."""
        oldest_s = self._clock() - SILENT_AFTER_S
        return [
            (announcement, at_s)
            for announcement, at_s in self.newest.values()
            if at_s >= oldest_s and announcement.state not in ("stopped", "failed")
        ]

    def _fold_catalog(self, announcement: Announcement) -> None:
        if announcement.state in ("stopped", "failed"):
            self.catalogs.pop(announcement.instance, None)
        elif announcement.full:
            self.catalogs[announcement.instance] = announcement.full
