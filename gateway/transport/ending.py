"""How a connection ends: late, displaced, unread, half-closed, or with a typed answer."""

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
from gateway.transport.door import ConnectionPhase, Door, RefusalReason
from gateway.transport.errors import TooSlow

SILENT, HEAD, IDLE, BODY, ANSWER, CLOSING = ConnectionPhase
LINGER_S = 2.0  # a client that still sends gets to read why this ends
PROBE_S = 0.25
PROBE_LONGEST_S = 5.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FULL = "this gateway has as many connections as it may: try again, or another one"
LOADED = "this gateway holds as many bytes of bodies as it may: try again"


class EndingConnection(HttpToolsProtocol):
    """uvicorn's protocol as a guest of the door."""

    parser: Any  # None once nothing more is read
    cycle: Any  # of the last request; None before the first
    running: Any = None  # of the request that runs, or ran last; others may wait behind it

    def __init__(self, door: Door, **given: Any) -> None:
        super().__init__(**given)
        self._door = door
        self.phase = SILENT
        self.since_s = time.monotonic()  # exact: those that came first go first
        self.due_s = door.now_s + door.limits.head_s
        self.read_by_s = math.inf
        self._is_arriving = False  # the door counts a body that is not whole
        self._discarded = 0

    def connection_made(self, transport: Any) -> None:
        """See `PipelineBacklog`."""
        super().connection_made(transport)
        self._backlog = self.flow = PipelineBacklog(transport, self._door)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads the answer, uvicorn gives none
        """Go on if the client only ended its own direction: its answer is still to come."""
        if self.phase is not ANSWER:
            return False
        self.cycle.keep_alive = False
        self._probe_later(PROBE_S)
        return True

    def _probe_later(self, wait_s: float) -> None:
        """Find out whether a client that sends no more is gone: only writing to it tells. HTTP/1.0 has no such word."""
        if self.running.scope["http_version"] == "1.1":
            self.loop.call_later(wait_s, self._probe, wait_s)

    def _probe(self, waited_s: float) -> None:
        if self.transport.is_closing() or self.cycle.response_started:
            return
        if not self.running.response_started:
            self.transport.write(CONTINUE)
        self._probe_later(min(2 * waited_s, PROBE_LONGEST_S))

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time."""
        self.read_by_s = self._door.now_s + self._door.limits.body_s
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `pause_writing`."""
        self.read_by_s = math.inf
        super().resume_writing()

    def expire(self) -> None:
        """End what took too long."""
        limits = self._door.limits
        if self.phase is CLOSING:
            self.transport.abort()
        elif self.phase is IDLE:
            self._close()
        elif self.is_answering():
            self._turn(self.phase, limits.head_s)
        elif self.phase is BODY:
            error = TooSlow(f"the body was not whole after {limits.body_s:g} seconds")
            self._refuse(error, RefusalReason.BODY_TOO_SLOW)
        else:
            self._refuse(TooSlow(f"no request was whole after {limits.head_s:g} seconds"), RefusalReason.HEAD_TOO_SLOW)

    def leave_unread(self) -> None:
        """End a connection whose client does not read."""
        self.read_by_s = math.inf
        self.transport.abort()

    def displace(self) -> None:
        """Make room for another connection, at once."""
        self._last_words(Unavailable(FULL))
        self._close()

    def turn_away(self) -> None:
        """Refuse the whole connection: there is no room for it."""
        self.parser = None
        self._last_words(Unavailable(FULL))
        if self._door.refuse(self):
            self._linger()
        else:
            self._close()

    def drop_body(self) -> None:
        """Make room for the bodies of others."""
        self._refuse(Unavailable(LOADED), None)

    def is_answering(self) -> bool:
        """Tell whether an earlier request of this connection, or a whole one, waits for its answer."""
        cycle = self.cycle
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def _turn(self, phase: ConnectionPhase, within_s: float) -> None:
        self.phase, self.since_s = phase, self._door.now_s
        self.due_s = self.since_s + within_s

    def _refuse(self, error: MillraceError, why: RefusalReason | None) -> None:
        """Say why, read no more, and close soon; an earlier request still gets its answer."""
        if why is not None:
            self._door.note(why)
        self._arrived()
        self.parser = None
        self._backlog.take()
        self._discarded = 0
        if self.is_answering():
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._leave(self.cycle)
            self._turn(self.phase, self._door.limits.head_s)  # what is behind it has an end, too
            return
        silent = self.phase is SILENT
        self._last_words(error)
        if silent:
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        """End what is written, and go on reading for a while: closing at once could cost the client its answer."""
        if not self.transport.can_write_eof():
            self._close()
            return
        self._leave(self.cycle)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._turn(CLOSING, LINGER_S)

    def _last_words(self, error: MillraceError) -> None:
        """Write an error if a request has begun, or a connection cannot, and no answer has."""
        cycle = self.cycle
        fresh = cycle is None or (cycle.response_complete and self.phase is not BODY)
        began = self.phase in (HEAD, BODY) or self not in self._door.connections
        if began and (fresh or not cycle.response_started):
            self.transport.write(raw_error(error, new_uid(now_us())))

    def _leave(self, cycle: Any) -> None:
        """Tell a request that its client is gone."""
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _close(self) -> None:
        self._leave(self.running)
        self._leave(self.cycle)
        if self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:  # it is not read
            self.transport.abort()
            return
        self._turn(CLOSING, LINGER_S)
        self.transport.close()

    def _discard(self, size: int, most: int) -> None:
        self._discarded += size
        if self._discarded > most:
            self.transport.abort()

    def _arrived(self) -> None:
        self._is_arriving = False
        self._door.arrived(self)
