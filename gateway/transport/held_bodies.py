"""The bodies of one connection's requests, in the order in which the requests arrived."""

from __future__ import annotations

from collections import deque

from gateway.transport.door import Door


class HeldBodies:
    """Counts the bytes of each body until its request has ended, here and for the door's limit on all connections."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._sizes: deque[int] = deque()

    @property
    def newest_bytes(self) -> int:
        """Bytes of the body that arrived last, so far."""
        return self._sizes[-1]

    def begin(self) -> None:
        """Start to count the body of a new request."""
        self._sizes.append(0)

    def add(self, size: int) -> None:
        """Count bytes of the newest body."""
        self._sizes[-1] += size
        self._door.held_bytes += size

    def end_oldest(self) -> None:
        """Forget the body of the request that ran."""
        self._door.held_bytes -= self._sizes.popleft()

    def drop_newest(self) -> None:
        """Forget the body of a request that will not run."""
        self._door.held_bytes -= self._sizes.pop()
