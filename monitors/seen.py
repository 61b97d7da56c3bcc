"""Remembers a bounded window of rows, so that each row is counted once: the first event in log order counts."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_ROWS = 100_000
CHUNKS = 16
_ODD = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))


class SeenRows:
    """The keys of at least the last `window_rows` rows. A row that is repeated later than that is counted again.

    Young keys are in a set. Older ones are in sorted arrays of eight bytes per key, a tenth of the size of a set.
    """

    def __init__(self, window_rows: int = WINDOW_ROWS) -> None:
        self._window_rows = window_rows
        self._chunk_rows = max(1, window_rows // CHUNKS)
        self._chunks: deque[tuple[int, NDArray[np.uint64]]] = deque()
        self._kept = 0
        self._young: set[int] = set()
        self._young_from: int | None = None

    def rebuild_from(self, end: int) -> int:
        """Return the offset from which a new process must read to have the same window at `end`."""
        if self._chunks:
            return self._chunks[0][0]
        return end if self._young_from is None else self._young_from

    def first_time(self, keys: NDArray[np.uint64], offset: int) -> NDArray[np.bool_]:
        """Return a mask of the keys that are new, and remember all of them; `offset` is that of their record."""
        self._age(offset)
        given: list[int] = keys.tolist()
        before = len(self._young)
        known = self._young.intersection(given)
        for _, chunk in self._chunks:
            indices = np.minimum(np.searchsorted(chunk, keys), len(chunk) - 1)
            known.update(keys[chunk[indices] == keys].tolist())
        self._young.update(given)
        if not known and len(self._young) - before == len(given):
            return np.ones(len(given), np.bool_)
        first = np.zeros(len(given), np.bool_)
        first[np.unique(keys, return_index=True)[1]] = True
        return first & ~np.isin(keys, np.fromiter(known, np.uint64, len(known)))

    def _age(self, offset: int) -> None:
        if self._young_from is not None and len(self._young) >= self._chunk_rows:
            chunk = np.sort(np.fromiter(self._young, np.uint64, len(self._young)))
            self._chunks.append((self._young_from, chunk))
            self._kept += len(chunk)
            while self._kept - len(self._chunks[0][1]) >= self._window_rows:
                self._kept -= len(self._chunks.popleft()[1])
            self._young, self._young_from = set(), None
        if self._young_from is None:
            self._young_from = offset


def keys_of(uids: NDArray[np.uint64], legs: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each (uid, leg, row); `uids` has two words a row.

    A uid carries at least 62 random bits: among 200,000 keys, two meet by chance once in 10^9.
    """
    leg_and_row = legs.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)
    mixed: NDArray[np.uint64] = uids[:, 0] * _ODD[0] ^ uids[:, 1] * _ODD[1] ^ leg_and_row * _ODD[2]
    return mixed
