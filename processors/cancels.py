"""Requests that nobody wants any more: they are dropped before they are computed."""

from __future__ import annotations

from collections.abc import Container

from broker.ids import now_us
from broker.messages import Record
from broker.status import read_cancels

LIMIT = 100_000  # remembered at once; more than that is computed, and its answer dropped
PRUNE_AT = 1000


class Cancels(Container[bytes]):
    """uids, each until its deadline: after that it is answered `expired` anyhow."""

    def __init__(self) -> None:
        self._until_us: dict[bytes, int] = {}
        self._prune_at = PRUNE_AT

    def __contains__(self, uid: object) -> bool:
        return uid in self._until_us

    def __len__(self) -> int:
        return len(self._until_us)

    def fold(self, record: Record) -> None:
        """Read a record of the status log."""
        for uid, until_us in read_cancels(record):
            if len(self._until_us) < LIMIT:
                self._until_us[uid] = until_us
        if len(self._until_us) >= self._prune_at:
            now = now_us()
            self._until_us = {uid: until_us for uid, until_us in self._until_us.items() if until_us > now}
            self._prune_at = max(PRUNE_AT, 2 * len(self._until_us))
