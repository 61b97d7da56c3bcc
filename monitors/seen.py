"""Which rows were counted already: the first event in log order counts, and the window of what is known is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_ROWS = 100_000
_ODD = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))


class Seen:
    """The keys of the last one to two windows of rows. One that comes again later than that is counted again."""

    def __init__(self, window_rows: int = WINDOW_ROWS) -> None:
        self._window_rows = window_rows
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._young_from: int | None = None
        self._old_from: int | None = None

    def rebuild_from(self, end: int) -> int:
        """Return the offset from which a new process must read to know what this one knows at `end`."""
        return next((offset for offset in (self._old_from, self._young_from) if offset is not None), end)

    def first_time(self, keys: NDArray[np.uint64], offset: int) -> NDArray[np.bool_]:
        """Tell for each key of the record at `offset` whether it is new, and remember it."""
        if len(self._young) >= self._window_rows:
            self._old, self._young = self._young, set()
            self._old_from, self._young_from = self._young_from, None
        if self._young_from is None:
            self._young_from = offset
        given: list[int] = keys.tolist()
        before = len(self._young)
        known = self._young.intersection(given) | self._old.intersection(given)
        self._young.update(given)
        if not known and len(self._young) - before == len(given):
            return np.ones(len(given), np.bool_)
        first = np.zeros(len(given), np.bool_)
        first[np.unique(keys, return_index=True)[1]] = True
        return first & ~np.isin(keys, np.fromiter(known, np.uint64, len(known)))


def keys_of(uids: NDArray[np.uint64], legs: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each (uid, leg, row); `uids` has two words a row.

    A uid carries at least 62 random bits: among the 200,000 keys of two windows, two meet by chance once in 10^9.
    """
    place = legs.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)
    mixed: NDArray[np.uint64] = uids[:, 0] * _ODD[0] ^ uids[:, 1] * _ODD[1] ^ place * _ODD[2]
    return mixed
