"""One partition in this process's hands: what was delivered from it, what is settled, and how that is committed.

Messages of a partition are settled in any order. What is committed is the first offset that is not settled, and beside
it, in the commit's metadata, all that whoever comes next has to know:

    "1 NONCE REACH DEATHS BITMAP"

`REACH` offsets from the committed one on may have been delivered: it is committed before they are. `BITMAP` marks
those that are settled. So after a kill the others "came back", `DEATHS` + 1 times as far as is known; and what lies
behind the reach is fresh. A clean end leaves a reach of 0. `NONCE` says who wrote it.
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
    """What was committed. `done` has bit i for the settled offset `offset + i`."""

    offset: int = UNKNOWN
    nonce: str = ""
    reach: int = 0
    deaths: int = 0
    done: int = 0


def pack_state(state: CommittedState) -> str:
    """Write a commit's metadata."""
    size = (state.done.bit_length() + 7) // 8
    bitmap = b64encode(state.done.to_bytes(size, "little")).decode()
    return f"{_VERSION} {state.nonce} {state.reach} {state.deaths} {bitmap}"


def unpack_state(offset: int, metadata: str) -> CommittedState:
    """Read a commit; metadata that is not ours says nothing beyond the offset."""
    try:
        version, nonce, reach, deaths, bitmap = metadata.split(" ")
        if version == _VERSION:
            done = int.from_bytes(b64decode(bitmap, validate=True), "little")
            return CommittedState(offset, nonce, int(reach), int(deaths), done)
    except ValueError:
        pass
    return CommittedState(offset)


class OffsetTracker:
    """A partition that is ours until it is `lost`."""

    def __init__(self, partition: Any, state: CommittedState) -> None:
        self.partition = partition
        self.nonce = secrets.token_hex(4)
        self.lost = False
        self.committed = state
        self._inherited = state
        self._came_back_before = state.offset + state.reach
        self._position = state.offset
        self._outstanding: dict[int, int] = {}  # in order: how often each came back
        self._reach = 0

    @property
    def position(self) -> int:
        """The next offset to deliver; `UNKNOWN` before the first record of a partition that has no commit."""
        return self._position

    @property
    def committed_reach(self) -> int:
        """Up to where records may be delivered without another commit."""
        return self.committed.offset + self.committed.reach if self.committed.nonce == self.nonce else UNKNOWN

    @property
    def first(self) -> int:
        """The first offset that is not settled."""
        return next(iter(self._outstanding), self._position)

    @property
    def outstanding(self) -> int:
        """How many deliveries are not settled."""
        return len(self._outstanding)

    @property
    def is_wide(self) -> bool:
        """Tell whether the window is full: nothing more should be fetched."""
        return self._position - self.first > WINDOW

    def admit(self, records: Iterable[Any]) -> list[tuple[Any, int]]:
        """Take over fetched records: those that are not settled yet, and how often each came back."""
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
        """Undo `admit` for the last record, which nobody has seen; False if it is not the last one."""
        if next(reversed(self._outstanding), UNKNOWN) != offset:
            return False
        del self._outstanding[offset]
        self._position = offset
        return True

    def holds(self, offset: int) -> bool:
        """Tell whether a delivery is not settled."""
        return offset in self._outstanding

    def settle(self, offset: int) -> bool:
        """Note that a delivery is settled; False if it was already."""
        return self._outstanding.pop(offset, None) is not None

    def came_back_again(self, offset: int) -> int | None:
        """Count a delivery that is given back; None if it is settled."""
        count = self._outstanding.get(offset)
        if count is None:
            return None
        self._outstanding[offset] = count + 1
        return count + 1

    def cover(self, ahead: int) -> None:
        """Ask for a reach of at least `ahead` offsets behind what is delivered."""
        self._reach = max(self._reach, self._position + ahead)

    def state(self, *, leaving: bool = False) -> CommittedState:
        """Return what to commit; who leaves takes back the reach that nobody was given."""
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
        """Mark what lies between the first and the last delivery and is settled, and what was before us behind that."""
        width, done = self._position - first, 0
        if len(self._outstanding) < width:
            marks = bytearray(b"1") * width
            for offset in self._outstanding:
                marks[width - 1 - offset + first] = ord("0")
            done = int(marks, 2)
        behind = self._inherited.done >> max(0, self._position - self._inherited.offset)
        return done | behind << width
