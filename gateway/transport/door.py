"""What the gateway bears of its connections: how large, how slow and how many they may be.

Connections note here when they are due; one look at all of them, twice a second, ends those that are late. That is
cheaper than a timer for each request, and it needs no request to come.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

log = logging.getLogger(__name__)

SWEEP_S = 0.5
LOG_EVERY_S = 10.0
OWN_DESCRIPTORS = 64  # the broker's links, files, the metrics' own server
HEALTH_CONNECTIONS = 32  # beyond the limit, for health alone
REFUSED_CONNECTIONS = 16  # beyond these, too, on our own descriptors: they get to read why
FEWEST_CONNECTIONS = 16
YOUNG_S = 2.0  # a body that began less than this ago is not slow yet
DISPLACED_AT_ONCE = 32  # a part of the limit: to look at all connections for each new one would be an attack, too


class ConnectionPhase(IntEnum):
    """What a connection is doing."""

    SILENT = 0  # nothing has come yet
    HEAD = 1
    IDLE = 2  # between two requests
    BODY = 3
    ANSWER = 4
    CLOSING = 5


class RefusalReason(IntEnum):
    """Why the door ended a connection or refused a request; the word in the metric is the name in lower case."""

    MALFORMED = 0
    HEAD_TOO_LARGE = 1
    TARGET_TOO_LONG = 2
    HEAD_TOO_SLOW = 3
    BODY_TOO_LARGE = 4
    BODY_TOO_SLOW = 5
    ANSWER_NOT_READ = 6
    BODIES_FULL = 7
    CONNECTIONS_FULL = 8
    DISPLACED = 9


WAYS_OUT = {
    RefusalReason.MALFORMED: "bytes that are not HTTP/1.1: does something else speak to this port?",
    RefusalReason.HEAD_TOO_LARGE: "headers larger than gateway.head_limit",
    RefusalReason.TARGET_TOO_LONG: "request targets longer than gateway.target_limit",
    RefusalReason.HEAD_TOO_SLOW: "no whole head of a request within gateway.head_timeout",
    RefusalReason.BODY_TOO_LARGE: "bodies larger than gateway.body_limit allows",
    RefusalReason.BODY_TOO_SLOW: "no whole body within gateway.body_timeout",
    RefusalReason.ANSWER_NOT_READ: "clients that did not read their answer within gateway.body_timeout",
    RefusalReason.BODIES_FULL: "held bodies reached gateway.bodies_limit, or arriving ones gateway.arriving_limit",
    RefusalReason.CONNECTIONS_FULL: "no more connections: gateway.connections_limit or ulimit -n is reached",
    RefusalReason.DISPLACED: "closed to make room for new ones: see gateway.connections_limit and ulimit -n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How large, how slow and how many. `connections` 0: as many as the descriptors allow."""

    head_bytes: int = 64 * 1024
    target_bytes: int = 8 * 1024
    head_s: float = 15.0
    body_s: float = 60.0
    idle_s: float = 75.0
    arriving_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    connections: int = 0


class DoorClient(Protocol):
    """A connection, as the door sees it."""

    phase: ConnectionPhase
    since_s: float  # when the phase began
    due_s: float  # when it has to be over
    read_by_s: float  # when what was written has to be read

    def expire(self) -> None:
        """End: the phase took too long."""

    def leave_unread(self) -> None:
        """End: the client does not read."""

    def displace(self) -> None:
        """End at once, to make room for another connection."""

    def drop_body(self) -> None:
        """End, to make room for the bodies of others."""

    def is_answering(self) -> bool:
        """Tell whether a request waits for its answer."""


class Door:
    """The connections of one gateway, and the bytes of their bodies."""

    def __init__(self, limits: DoorLimits, count: Callable[[str], None]) -> None:
        self.limits = limits
        self.connections: set[DoorClient] = set()
        self.refused: set[DoorClient] = set()  # for whom there was no room; they are gone soon
        self.most = connections_limit(limits.connections)
        self.now_s = time.monotonic()  # as of the last look: half a second is exact enough
        self.arriving: dict[DoorClient, int] = {}  # bytes of bodies that are not whole yet, the oldest first
        self.arriving_bytes = 0
        self.held_bytes = 0  # of all bodies whose request has not ended
        self._count = count
        self._unsaid: Counter[RefusalReason] = Counter()
        self._said_s: dict[RefusalReason, float] = {}

    def note(self, why: RefusalReason) -> None:
        """Count an end; the log line comes with the next look."""
        self._count(why.name.lower())
        self._unsaid[why] += 1

    def is_full(self) -> bool:
        """Tell whether there is no room for one more connection, once the quietest ones have made what room they can.

        Those that never sent a request go first, then idle ones, then slow bodies; never one that waits for an answer.
        """
        if len(self.connections) >= self.most:
            self._make_room()
        return len(self.connections) >= self.most

    def has_room_for_health(self) -> bool:
        """Tell whether one more connection may come for health alone."""
        return len(self.connections) < self.most + HEALTH_CONNECTIONS

    def refuse(self, guest: DoorClient) -> bool:
        """Count a connection for which there is no room; return whether it may stay until it has read why."""
        self.note(RefusalReason.CONNECTIONS_FULL)
        if len(self.refused) >= REFUSED_CONNECTIONS:
            return False
        self.refused.add(guest)
        return True

    def is_loaded(self) -> bool:
        """Tell whether the bodies held here take all that they may."""
        return self.held_bytes >= self.limits.bodies_bytes

    def arrive(self, guest: DoorClient, size: int) -> None:
        """Note bytes of a body that is not whole; the oldest such bodies end when there are too many bytes."""
        self.arriving[guest] = self.arriving.get(guest, 0) + size
        self.arriving_bytes += size
        while self.arriving_bytes > self.limits.arriving_bytes:
            oldest = next(iter(self.arriving))
            self.arrived(oldest)
            self.note(RefusalReason.BODIES_FULL)
            oldest.drop_body()

    def arrived(self, guest: DoorClient) -> None:
        """Forget a body that is whole, or will never be."""
        self.arriving_bytes -= self.arriving.pop(guest, 0)

    def look(self) -> None:
        """End what is late, and log what was ended."""
        now = self.now_s = time.monotonic()
        for guest in [it for it in (*self.connections, *self.refused) if it.due_s <= now]:
            guest.expire()
        for guest in [it for it in self.connections if it.read_by_s <= now]:
            self.note(RefusalReason.ANSWER_NOT_READ)
            guest.leave_unread()
        for why in [it for it in self._unsaid if now - self._said_s.get(it, -LOG_EVERY_S) >= LOG_EVERY_S]:
            self._said_s[why] = now
            log.warning("the door ended %d connections or requests: %s", self._unsaid.pop(why), WAYS_OUT[why])

    def _make_room(self) -> None:
        old = self.now_s - YOUNG_S
        quiet = [
            it
            for it in self.connections
            if (it.phase < ConnectionPhase.BODY or (it.phase is ConnectionPhase.BODY and it.since_s < old))
            and not it.is_answering()
        ]
        quiet.sort(key=lambda it: (max(it.phase, ConnectionPhase.HEAD), it.since_s))
        for guest in quiet[: max(1, self.most // DISPLACED_AT_ONCE)]:
            self.note(RefusalReason.DISPLACED)
            guest.displace()
            self.connections.discard(guest)  # its descriptor is free in a moment


def connections_limit(wanted: int) -> int:
    """Return how many connections there may be: `wanted`, if the process may have so many descriptors.

    Some of them stay for the gateway's own links and for health.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    possible = max(FEWEST_CONNECTIONS, soft - OWN_DESCRIPTORS - HEALTH_CONNECTIONS)
    if wanted > possible:
        log.warning("gateway.connections_limit %d: %d descriptors allow %d (ulimit -n)", wanted, soft, possible)
    return min(wanted, possible) if wanted else possible
