"""The ways in which a connection ends: late, displaced, unread, half-closed, or with a typed answer."""

from __future__ import annotations

import math
import time
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.errors import MillraceError, Unavailable
from broker.protocol.ids import new_uid, now_us
from gateway.transport.asgi import raw_error
from gateway.transport.backlog import PipelineBacklog
from gateway.transport.door import YOUNG_S, ConnectionPhase, Door, RefusalReason
from gateway.transport.errors import TooSlow

SILENT, HEAD, IDLE, BODY, ANSWER, CLOSING = ConnectionPhase
LINGER_S = 2.0  # a client that still sends can read the error meanwhile
CONNECTIONS_FULL = "this gateway has as many connections as it may: try again, or another one"
BODIES_FULL = "this gateway holds as many bytes of bodies as it may: try again"


class EndingConnection(HttpToolsProtocol):
    """uvicorn's protocol as a client of the door."""

    parser: Any  # None once nothing more is read
    cycle: Any  # of the newest request; None before the first
    running: Any = None  # the cycle that runs, or ran last; others may wait for it

    def __init__(self, door: Door, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._door = door
        self.phase = SILENT
        self.since_s = time.monotonic()  # exact, because the oldest connections are displaced first
        self.due_s = door.now_s + door.limits.head_s
        self.read_by_s = math.inf
        self._is_arriving = False  # the door counts an incomplete body of this connection
        self._discarded = 0

    def connection_made(self, transport: Any) -> None:
        """Add the connection. uvicorn's method would also ask the system for both addresses, which nothing reads."""
        self.connections.add(self)
        self.transport, self.scheme = transport, "http"
        self._backlog = self.flow = PipelineBacklog(transport, self._door)

    def expire(self) -> None:
        limits = self._door.limits
        if self.phase is CLOSING:
            self.transport.abort()
        elif self.phase is IDLE:
            self._close()
        elif self.is_answering():
            self._enter(self.phase, limits.head_s)
        elif self.phase is BODY:
            error = TooSlow(f"the body was not complete after {limits.body_s:g} seconds")
            self._refuse(error, RefusalReason.BODY_TOO_SLOW)
        else:
            self._refuse(
                TooSlow(f"no request was complete after {limits.head_s:g} seconds"), RefusalReason.HEAD_TOO_SLOW
            )

    def end_unread(self) -> None:
        self.read_by_s = math.inf
        self.transport.abort()

    def displace(self) -> None:
        if self.phase is SILENT and time.monotonic() - self.since_s < YOUNG_S:  # its request may be on its way
            self.transport.write(raw_error(Unavailable(CONNECTIONS_FULL), new_uid(now_us())))
        else:
            self._write_error(Unavailable(CONNECTIONS_FULL))
        self._close()

    def turn_away(self) -> None:
        """Refuse the whole connection because there is no room for it."""
        self.parser = None
        self._write_error(Unavailable(CONNECTIONS_FULL))
        if self._door.refuse(self):
            self._linger()
        else:
            self._close()

    def drop_body(self) -> None:
        self._refuse(Unavailable(BODIES_FULL), None)

    def is_answering(self) -> bool:
        cycle = self.cycle
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def _enter(self, phase: ConnectionPhase, within_s: float) -> None:
        """Begin a phase that must be over after `within_s` seconds."""
        self.phase, self.since_s = phase, self._door.now_s
        self.due_s = self.since_s + within_s

    def _refuse(self, error: MillraceError, reason: RefusalReason | None) -> None:
        """Answer with an error, read no more, and close soon; an earlier request still gets its answer."""
        if reason is not None:
            self._door.note(reason)
        self._arrived()
        self.parser = None
        self._backlog.take()
        self._discarded = 0
        if self.is_answering():
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._disconnect(self.cycle)
            self._enter(self.phase, self._door.limits.head_s)  # the connection closes after the earlier answer
            return
        silent = self.phase is SILENT
        self._write_error(error)
        if silent:
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close our direction, and read on for a while: closing at once could cost the client its answer."""
        if not self.transport.can_write_eof():
            self._close()
            return
        self._disconnect(self.cycle)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._enter(CLOSING, LINGER_S)

    def _write_error(self, error: MillraceError) -> None:
        """Write an error, if a request or the whole connection is refused and no answer has begun."""
        cycle = self.cycle
        is_new = cycle is None or (cycle.response_complete and self.phase is not BODY)
        has_begun = self.phase in (HEAD, BODY) or self not in self._door.connections
        if has_begun and (is_new or not cycle.response_started):
            self.transport.write(raw_error(error, new_uid(now_us())))

    def _disconnect(self, cycle: Any) -> None:
        """Let a request receive that its client has disconnected."""
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _close(self) -> None:
        self._disconnect(self.running)
        self._disconnect(self.cycle)
        if self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:  # the client does not read
            self.transport.abort()
            return
        self._enter(CLOSING, LINGER_S)
        self.transport.close()

    def _discard(self, size: int, limit: int) -> None:
        self._discarded += size
        if self._discarded > limit:
            self.transport.abort()

    def _arrived(self) -> None:
        self._is_arriving = False
        self._door.arrived(self)
