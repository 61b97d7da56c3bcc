"""Cancelled requests, which are dropped before they are computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.status import read_cancels

LIMIT = 100_000  # remembered at once; requests beyond it are computed, and their answers dropped
PRUNE_S = 1.0


class CancelledRequests(Container[bytes]):
    """The uids of cancelled requests, each until its deadline; later the request expires without a cancel."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, limit: int = LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._until_us: dict[bytes, int] = {}
        self._pruned_s = clock()

    def __contains__(self, uid: object) -> bool:
        return uid in self._until_us

    def __len__(self) -> int:
        return len(self._until_us)

    def fold(self, record: Record) -> None:
        """Read a record of the `status` log."""
        cancels = read_cancels(record)
        if cancels and self._clock() - self._pruned_s > PRUNE_S:
            self._pruned_s, now = self._clock(), now_us()
            self._until_us = {uid: until_us for uid, until_us in self._until_us.items() if until_us > now}
        for uid, until_us in cancels:
            if len(self._until_us) < self._limit:
                self._until_us[uid] = until_us
