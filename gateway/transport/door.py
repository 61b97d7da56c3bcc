"""Limits of the gateway's connections: their number, their size and their speed.

Each connection notes its deadline. A sweep twice a second ends the late ones, which is cheaper than a timer for each
request and works without new requests.
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

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
SWEEP_ON_S = 0.01  # while more connections are late
ENDED_AT_ONCE = 32
LOG_EVERY_S = 10.0
OWN_DESCRIPTORS = 64  # for the broker, files, and the metrics server
HEALTH_CONNECTIONS = 32  # beyond the limit, for /v2/health only
REFUSED_CONNECTIONS = 16  # beyond both, on our own descriptors, until they have read the error
FEWEST_CONNECTIONS = 16
YOUNG_S = 2.0  # a body younger than this does not count as slow; a silent connection that is displaced reads its 503
SILENT_S = 0.05  # a new connection keeps its place so long: its first bytes may not have been read yet
SEARCH_SHARE = 0.1  # of the time, at most, for searches that find no connection to displace
DISPLACED_AT_ONCE = 32  # divides the limit: a search of all connections for each new one would be too slow


class ConnectionPhase(IntEnum):
    """The state of a connection."""

    SILENT = 0  # nothing has arrived yet
    HEAD = 1
    IDLE = 2  # between two requests
    BODY = 3
    ANSWER = 4
    CLOSING = 5


class RefusalReason(IntEnum):
    """The reason for which a connection was ended or a request refused; metrics show the name in lower case."""

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
    RefusalReason.HEAD_TOO_SLOW: "no complete head of a request within gateway.head_timeout",
    RefusalReason.BODY_TOO_LARGE: "bodies larger than gateway.body_limit allows",
    RefusalReason.BODY_TOO_SLOW: "no complete body within gateway.body_timeout",
    RefusalReason.ANSWER_NOT_READ: "clients that did not read their answer within gateway.body_timeout",
    RefusalReason.BODIES_FULL: "held bodies reached gateway.bodies_limit, or arriving ones gateway.arriving_limit",
    RefusalReason.CONNECTIONS_FULL: "no more connections: gateway.connections_limit or ulimit -n is reached",
    RefusalReason.DISPLACED: "closed to make room for new ones: see gateway.connections_limit and ulimit -n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """The limits; `connections` 0 means as many as the file descriptors allow."""

    head_bytes: int = 64 * 1024
    target_bytes: int = 8 * 1024
    head_s: float = 15.0
    body_s: float = 60.0
    idle_s: float = 75.0
    arriving_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    connections: int = 0


class DoorClient(Protocol):
    """The interface of a connection to the door."""

    phase: ConnectionPhase
    since_s: float  # the start of the phase
    due_s: float  # the deadline of the phase
    read_by_s: float  # the deadline for reading the written answer

    def expire(self) -> None:
        """End the connection because its phase took too long."""

    def end_unread(self) -> None:
        """End the connection because its client does not read."""

    def displace(self) -> None:
        """End the connection at once, to make room for another one."""

    def drop_body(self) -> None:
        """End the request whose body is arriving, to make room for other bodies."""

    def is_answering(self) -> bool:
        """Return True while a complete request waits for its answer."""


class Door:
    """The connections of one gateway, and the bytes of their bodies."""

    def __init__(self, limits: DoorLimits, count: Callable[[str], None]) -> None:
        self.limits = limits
        self.connections: set[DoorClient] = set()
        self.refused: set[DoorClient] = set()  # there was no room for these; they close soon
        self.connections_limit = connections_limit(limits.connections)
        self.now_s = time.monotonic()  # at the last sweep: half a second is exact enough
        self.arriving: dict[DoorClient, int] = {}  # bytes of incomplete bodies, the oldest first
        self.arriving_bytes = 0
        self.held_bytes = 0  # of all bodies whose request has not ended
        self._count = count
        self._unlogged: Counter[RefusalReason] = Counter()
        self._logged_s: dict[RefusalReason, float] = {}
        self._search_after_s = 0.0

    def note(self, reason: RefusalReason) -> None:
        """Count a refusal; the next sweep logs it."""
        self._count(reason.name.lower())
        self._unlogged[reason] += 1

    def is_full(self) -> bool:
        """Displace quiet connections if the limit is reached; return True if there is no room for one more even then.

        Connections that never sent a request go first, then idle ones, then slow bodies; never one that waits for an
        answer.
        """
        return not self._has_room(self.connections_limit - 1, None)

    def has_place(self, client: DoorClient) -> bool:
        """Return True if a connection that was accepted beyond the limit has a place now, as `is_full` makes room."""
        return self._has_room(self.connections_limit, client)

    def has_room_for_health(self) -> bool:
        """Return True if one more connection may be served, for /v2/health only."""
        return len(self.connections) < self.connections_limit + HEALTH_CONNECTIONS

    def refuse(self, client: DoorClient) -> bool:
        """Count a connection without room; return True if it may stay until its client has read the error."""
        self.note(RefusalReason.CONNECTIONS_FULL)
        if len(self.refused) >= REFUSED_CONNECTIONS:
            return False
        self.refused.add(client)
        return True

    def bodies_are_full(self) -> bool:
        """Return True if the held bodies have reached their limit."""
        return self.held_bytes >= self.limits.bodies_bytes

    def arrive(self, client: DoorClient, size: int) -> None:
        """Count bytes of an incomplete body; the oldest incomplete bodies are dropped above the limit."""
        self.arriving[client] = self.arriving.get(client, 0) + size
        self.arriving_bytes += size
        while self.arriving_bytes > self.limits.arriving_bytes:
            oldest = next(iter(self.arriving))
            self.arrived(oldest)
            self.note(RefusalReason.BODIES_FULL)
            oldest.drop_body()

    def arrived(self, client: DoorClient) -> None:
        """Forget a body that is complete or given up."""
        self.arriving_bytes -= self.arriving.pop(client, 0)

    def sweep(self) -> bool:
        """End late connections, and log the refusals since the last log line.

        Returns True if more connections are late: to end thousands at once would delay every other client.
        """
        now = self.now_s = time.monotonic()
        late = [it for it in (*self.connections, *self.refused) if it.due_s <= now]
        for client in late[:ENDED_AT_ONCE]:
            client.expire()
        unread = [it for it in self.connections if it.read_by_s <= now]
        for client in unread[:ENDED_AT_ONCE]:
            self.note(RefusalReason.ANSWER_NOT_READ)
            client.end_unread()
        for reason in [it for it in self._unlogged if now - self._logged_s.get(it, -LOG_EVERY_S) >= LOG_EVERY_S]:
            self._logged_s[reason] = now
            logger.warning(
                "the door ended %d connections or requests: %s", self._unlogged.pop(reason), WAYS_OUT[reason]
            )
        return max(len(late), len(unread)) > ENDED_AT_ONCE

    def _has_room(self, most: int, besides: DoorClient | None) -> bool:
        """Return True if there are at most `most` connections, after quiet ones other than `besides` were displaced."""
        excess = len(self.connections) - most
        if excess > 0:
            self._displace(max(excess, self.connections_limit // DISPLACED_AT_ONCE), besides)
        return len(self.connections) <= most

    def _displace(self, number: int, besides: DoorClient | None) -> None:
        now = time.monotonic()
        if now < self._search_after_s:
            return
        quiet = [it for it in self.connections if it is not besides and self._is_quiet(it, now)]
        if not quiet:
            ended = time.monotonic()
            self._search_after_s = ended + (ended - now) / SEARCH_SHARE
        quiet.sort(key=lambda it: (max(it.phase, ConnectionPhase.HEAD), it.since_s))
        for client in quiet[:number]:
            self.note(RefusalReason.DISPLACED)
            client.displace()
            self.connections.discard(client)  # its descriptor is free soon

    @staticmethod
    def _is_quiet(client: DoorClient, now: float) -> bool:
        """Return True if a connection may be displaced."""
        if client.is_answering():
            return False
        if client.phase is ConnectionPhase.SILENT:
            return client.since_s < now - SILENT_S
        return client.phase < ConnectionPhase.BODY or (
            client.phase is ConnectionPhase.BODY and client.since_s < now - YOUNG_S
        )


def connections_limit(wanted: int) -> int:
    """Return the number of connections that the file descriptors allow, at most `wanted` unless it is 0.

    Some descriptors are kept for the gateway itself and for health.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    possible = max(FEWEST_CONNECTIONS, soft - OWN_DESCRIPTORS - HEALTH_CONNECTIONS)
    if wanted > possible:
        logger.warning("gateway.connections_limit %d: %d descriptors allow %d (ulimit -n)", wanted, soft, possible)
    return min(wanted, possible) if wanted else possible
