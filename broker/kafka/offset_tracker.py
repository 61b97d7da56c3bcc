"""One partition in this process: its deliveries, which of them are settled, and the state to commit.

Messages of a partition are settled in any order. The committed offset is the first one that is not settled. The
commit's metadata has everything else that the next owner of the partition needs:

    "1 NONCE REACH DEATHS BITMAP"

- `NONCE` identifies the tracker that wrote the commit.
- `REACH`: this many offsets, from the committed one on, may have been delivered. It is committed before they are.
- `BITMAP` marks the settled offsets among them. After a kill the other ones count as having come back, `DEATHS` + 1
  times as far as is known. Records after the reach are fresh. A clean end leaves a reach of 0.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WINDOW = 8192  # offsets between the first that is not settled and the last delivered: 1,366 characters of metadata
UNKNOWN = -1
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class CommittedState:
    """The content of a commit. Bit i of `done` is set if offset `offset + i` is settled."""

    offset: int = UNKNOWN
    nonce: str = ""
    reach: int = 0
    deaths: int = 0
    done: int = 0


def pack_state(state: CommittedState) -> str:
    """Return a commit's metadata."""
    size = (state.done.bit_length() + 7) // 8
    bitmap = b64encode(state.done.to_bytes(size, "little")).decode()
    return f"{_VERSION} {state.nonce} {state.reach} {state.deaths} {bitmap}"


def unpack_state(offset: int, metadata: str) -> CommittedState:
    """Read a commit; metadata in any other format is ignored, and only the offset counts."""
    try:
        version, nonce, reach, deaths, bitmap = metadata.split(" ")
        if version == _VERSION:
            done = int.from_bytes(b64decode(bitmap, validate=True), "little")
            return CommittedState(offset, nonce, int(reach), int(deaths), done)
    except ValueError:
        pass
    return CommittedState(offset)


class OffsetTracker:
    """A partition that this process reads until it is `lost`."""

    def __init__(self, partition: Any, state: CommittedState) -> None:
        self.partition = partition
        self.nonce = secrets.token_hex(4)
        self.lost = False
        self.admitted_ms: int | None = None  # when Kafka answered with the last admitted records
        self.committed = state
        self._inherited = state
        self._came_back_before = state.offset + state.reach
        self._position = state.offset
        self._outstanding: dict[int, int] = {}  # unsettled offsets, ascending, each with how often it came back
        self._reach = 0

    @property
    def position(self) -> int:
        """The next offset to deliver; `UNKNOWN` before the first record of a partition that has no commit."""
        return self._position

    @property
    def committed_reach(self) -> int:
        """Records before this offset may be delivered without another commit."""
        return self.committed.offset + self.committed.reach if self.committed.nonce == self.nonce else UNKNOWN

    @property
    def first(self) -> int:
        """The first offset that is not settled."""
        return next(iter(self._outstanding), self._position)

    @property
    def outstanding(self) -> int:
        """The number of deliveries that are not settled."""
        return len(self._outstanding)

    @property
    def is_window_full(self) -> bool:
        """True if no more records should be fetched until older ones are settled."""
        return self._position - self.first > WINDOW

    def admit(self, records: Iterable[Any]) -> list[tuple[Any, int]]:
        """Return the fetched records that are not settled yet, each with how often it came back."""
        fresh = []
        for record in records:
            if record.offset < self._position:
                continue
            self._position = record.offset + 1
            if not self._was_done(record.offset):
                came_back = self._inherited.deaths + 1 if record.offset < self._came_back_before else 0
                self._outstanding[record.offset] = came_back
                fresh.append((record, came_back))
        return fresh

    def withdraw(self, offset: int) -> bool:
        """Undo `admit` for the last record, which was not taken; return False if `offset` is not the last one."""
        if next(reversed(self._outstanding), UNKNOWN) != offset:
            return False
        del self._outstanding[offset]
        self._position = offset
        return True

    def holds(self, offset: int) -> bool:
        """Return True if the record was delivered and is not settled."""
        return offset in self._outstanding

    def settle(self, offset: int) -> bool:
        """Mark a delivery as settled; return False if it was settled already."""
        return self._outstanding.pop(offset, None) is not None

    def requeue(self, offset: int) -> int | None:
        """Count a delivery that is given back; return how often it came back by now, or None if it is settled."""
        count = self._outstanding.get(offset)
        if count is None:
            return None
        self._outstanding[offset] = count + 1
        return count + 1

    def extend_reach(self, ahead: int) -> None:
        """Let the next commit allow for at least `ahead` offsets after the last delivered one."""
        self._reach = max(self._reach, self._position + ahead)

    def state(self, *, leaving: bool = False) -> CommittedState:
        """Return the state to commit. With `leaving`, the reach ends at the last delivery: no more will follow."""
        first = self.first
        if leaving:
            self._reach = self._position if self._outstanding else 0
        reach = max(self._reach, self._came_back_before if self._position < self._came_back_before else 0, first)
        untouched = self._inherited.deaths if self._position < self._came_back_before else 0
        return CommittedState(
            first, self.nonce, reach - first, self._outstanding.get(first, untouched), self._done(first)
        )

    def _was_done(self, offset: int) -> bool:
        at = offset - self._inherited.offset
        return at >= 0 and bool(self._inherited.done >> at & 1)

    def _done(self, first: int) -> int:
        """Return the bitmap from `first` on: our settled deliveries, then the inherited bits after the position."""
        width, done = self._position - first, 0
        if len(self._outstanding) < width:
            marks = bytearray(b"1") * width
            for offset in self._outstanding:
                marks[width - 1 - offset + first] = ord("0")
            done = int(marks, 2)
        behind = self._inherited.done >> max(0, self._position - self._inherited.offset)
        return done | behind << width
