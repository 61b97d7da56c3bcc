"""One connection: uvicorn's protocol with bounds and deadlines. An offered upgrade is ignored."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.errors import InvalidRequest, MillraceError, Unavailable
from gateway.transport.asgi import ErrorApp
from gateway.transport.backlog import PIPELINED_MOST
from gateway.transport.body import number
from gateway.transport.door import Door, RefusalReason
from gateway.transport.ending import ANSWER, BODY, CLOSING, FULL, HEAD, IDLE, LOADED, EndingConnection
from gateway.transport.errors import HeadTooLarge, TargetTooLong

DISCARDED_BYTES = 16 << 20  # of a body whose request is answered already
LINGER_BYTES = 1 << 20
FRAMING = 8  # bytes of chunk framing that a byte of a body may have
PIECE_BYTES = 16 * 1024  # parsed at once, unless they are of one head or of one body that names its length
PIECE_LINES = 64  # so at most half as many requests begin in a piece
CROWDED_BYTES = 512  # parsed at once where there are more lines: they have room for no more requests
HEAD_END = b"\r\n\r\n"
HEALTH = b"/v2/health"
NOT_FORWARDED = frozenset((b"upgrade", b"http2-settings"))
REASONS: dict[type[MillraceError], RefusalReason] = {
    HeadTooLarge: RefusalReason.HEAD_TOO_LARGE,
    TargetTooLong: RefusalReason.TARGET_TOO_LONG,
}


class HttpConnection(EndingConnection):
    """What one client sends and gets."""

    def __init__(self, door: Door, **given: Any) -> None:
        super().__init__(door, **given)
        self._head_limit, self._target_limit = door.limits.head_bytes, door.limits.target_bytes
        self._for_health = False
        self._upgrading = b""  # the method of a request that offers an upgrade
        self._is_timed = False  # the head or the body that is not whole has its deadline
        self._piece_bytes = 0  # of what is parsed now
        self._is_split = False  # a request has ended in the piece that is parsed now
        self._fed_bytes = 0  # of a head or a body that is not whole, as it came, before the piece that is parsed now
        self._sizes: deque[int] = deque()  # bytes of the bodies of requests that have not ended, in order

    # -- the connection

    def connection_made(self, transport: Any) -> None:
        """Serve it if there is room."""
        super().connection_made(transport)
        door = self._door
        if door.is_full():
            self._for_health = door.has_room_for_health()
            if not self._for_health:
                self.turn_away()
                return
        door.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._door.connections.discard(self)
        self._door.refused.discard(self)
        self._door.arrived(self)
        self._backlog.take()
        for _ in range(len(self.pipeline)):  # requests that nobody will start
            self._door.held_bytes -= self._sizes.pop()
        self.pipeline.clear()
        self.phase, self.due_s = CLOSING, math.inf
        self._leave(self.running)  # uvicorn tells the last one
        super().connection_lost(exc)

    # -- what comes

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is too large, too long or no HTTP gets a typed answer and ends the connection."""
        if self.parser is None:
            self._discard(len(data), LINGER_BYTES)
            return
        if len(data) <= PIECE_BYTES and not self.pipeline and not _is_crowded(data, 0, len(data)):
            self._feed(data)
        else:
            kept, at = self._backlog.take()
            self._feed_pieces(kept[at:] + data, 0)
        self._note_unfinished()

    def _feed_pieces(self, data: bytes, at: int) -> None:
        """Parse the bytes from `at` on, as far as there is room for the requests in them, and keep the rest."""
        view = memoryview(data)
        while at < len(data) and self.parser is not None:
            if len(self.pipeline) >= PIPELINED_MOST:
                self._keep(data, at)
                return
            end = self._piece_end(data, at)
            self._feed(view[at:end])
            at = end

    def _piece_end(self, data: bytes, at: int) -> int:
        """Return where to stop parsing, so that few requests begin before."""
        if self.phase is not BODY:
            end = data.find(HEAD_END, at)
            return len(data) if end < 0 else end + len(HEAD_END)
        if (left := self._body_left()) is not None:
            return at + left
        end = at + PIECE_BYTES
        return at + CROWDED_BYTES if _is_crowded(data, at, end) else end

    def _body_left(self) -> int | None:
        """Return how many bytes of the body are still to come, None if it does not name its length."""
        if not self.cycle.response_complete:
            for name, value in self.scope["headers"]:
                if name == b"content-length" and (size := number(value)) is not None:
                    return size - self._sizes[-1] or None
        return None

    def _keep(self, data: bytes, at: int) -> None:
        if self._door.is_loaded():
            self._refuse(Unavailable(LOADED), RefusalReason.BODIES_FULL)
        else:
            self._backlog.keep(data, at)

    def _go_on(self) -> None:
        """Parse what was kept: a request of this connection has ended."""
        self._is_timed = False  # the client could send no more of it
        self._feed_pieces(*self._backlog.take())
        self._note_unfinished()
        self.flow.resume_reading()

    def _feed(self, piece: bytes | memoryview) -> None:
        self._piece_bytes, self._is_split = len(piece), False
        try:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as exc:
                self._feed_without_upgrade(piece, exc.args[0])
        except httptools.HttpParserError as exc:
            self._refuse_head(exc.__context__)
            return
        self._fed_bytes += len(piece)
        if self._is_oversized():
            self._refuse_head(self._too_large())

    def _feed_without_upgrade(self, data: bytes | memoryview, at: int) -> None:
        while True:
            data = self._without_upgrade() + data[at:]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                at = exc.args[0]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """Return the head of a request that offers an upgrade as if it did not: RFC 9110 lets a server ignore it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self._upgrading, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in NOT_FORWARDED)
            if name not in NOT_FORWARDED:
                lines.append(b"%b: %b\r\n" % (name, value))
        self._upgrading = b""
        return b"".join((*lines, b"\r\n"))

    def on_message_begin(self) -> None:
        """Start a head."""
        super().on_message_begin()
        self.phase, self._is_timed = HEAD, False
        self._fed_bytes = -self._piece_bytes if self._is_split else 0  # the piece has bytes of an earlier request

    def on_url(self, url: bytes) -> None:
        """Add a piece of the target."""
        self.url += url
        if len(self.url) > self._target_limit:
            raise TargetTooLong(f"the request target has more than the {self._target_limit} bytes allowed here")

    def on_headers_complete(self) -> None:
        """Start the request, or its refusal."""
        if self.parser.should_upgrade():
            self._upgrading = self.parser.get_method()
            if self._upgrading == b"CONNECT":
                raise InvalidRequest("CONNECT is not for this gateway: it is no proxy")
            return
        self._measure()
        if self._for_health or self._door.is_loaded():
            self.app = self._app()
            super().on_headers_complete()
            self.app = self.config.loaded_app
        else:
            super().on_headers_complete()
        self.headers = []  # trailers go nowhere
        self._sizes.append(0)
        self.phase, self._is_timed, self._fed_bytes = BODY, False, -self._piece_bytes
        if self.scope["http_version"] == "1.0" and self.parser.should_keep_alive():
            self.cycle.keep_alive = True
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        cycle = self.cycle
        if cycle.response_complete:
            self._discard(len(body), DISCARDED_BYTES)
            return
        self._sizes[-1] += len(body)
        self._door.held_bytes += len(body)
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:  # small pieces wake nobody before the last one
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        if self._upgrading:
            return
        if self.headers:  # trailers
            self._measure()
        self._is_split = True
        if self._is_arriving:
            self._arrived()
        if self.cycle.response_complete:
            self._turn(IDLE, self._door.limits.idle_s)
            return
        self.phase, self.due_s = ANSWER, math.inf
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _app(self) -> Any:
        """Return what answers this request: the gateway, or why it does not."""
        if self._for_health and not self.url.startswith(HEALTH):
            self._door.note(RefusalReason.CONNECTIONS_FULL)
            return ErrorApp(Unavailable(FULL))
        if self._door.is_loaded() and self._has_body():
            self._door.note(RefusalReason.BODIES_FULL)
            return ErrorApp(Unavailable(LOADED))
        return self.config.loaded_app

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _measure(self) -> None:
        """Refuse headers or trailers that are whole and too large; small ones need no look."""
        if max(0, self._fed_bytes) + self._piece_bytes <= self._head_limit:
            return
        if sum(len(name) + len(value) for name, value in self.headers) > self._head_limit:
            raise self._too_large()

    def _is_oversized(self) -> bool:
        """Whether a head that is not whole is too large, or framing outweighs a body that is not: an attack."""
        if self._fed_bytes <= self._head_limit:
            return False
        if self.phase is BODY:
            return not self.cycle.response_complete and (
                self._fed_bytes > self._head_limit + (1 + FRAMING) * self._sizes[-1]
            )
        return self.phase is HEAD

    def _note_unfinished(self) -> None:
        """Set the deadline of what a read has left unfinished; the door counts a body's bytes."""
        if self.parser is None:
            return
        if self.phase is HEAD:
            self._time(self._door.limits.head_s)
        elif self.phase is BODY:
            self._time(self._door.limits.body_s)
            if not self.cycle.response_complete:
                self._is_arriving = True
                self._door.arrive(self, self._sizes[-1] - self._door.arriving.get(self, 0))

    def _time(self, within_s: float) -> None:
        """Set the deadline of a head or a body, once; one that comes whole at once needs none."""
        if not self._is_timed:
            self._is_timed = True
            self._turn(self.phase, within_s)

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"headers, trailers or chunk framing take more than the {self._head_limit} bytes allowed")

    def _refuse_head(self, error: BaseException | None) -> None:
        if not isinstance(error, MillraceError):
            error = InvalidRequest("Invalid HTTP request received.")
        self._refuse(error, REASONS.get(type(error), RefusalReason.MALFORMED))

    # -- what goes

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start a request; its bytes are held until it has ended, whether its client is still there or not."""
        self.running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._ended)
        self.tasks.add(task)

    def _ended(self, task: Any) -> None:
        self.tasks.discard(task)
        self._door.held_bytes -= self._sizes.popleft()

    def on_response_complete(self) -> None:
        """Start the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._turn(CLOSING, self._door.limits.body_s)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.phase is ANSWER:
            self._turn(IDLE, self._door.limits.idle_s)
        else:
            self._arrived()  # the rest of a body that nobody wants any more
        if self._backlog:
            self._go_on()


def _is_crowded(data: bytes, at: int, end: int) -> bool:
    """Whether many requests may begin in these bytes."""
    if end - at > CROWDED_BYTES:
        for _ in range(PIECE_LINES):
            at = data.find(b"\r", at, end) + 1
            if not at:
                return False
        return True
    return False


def connection_factory(door: Door) -> type[HttpToolsProtocol]:
    """Return what uvicorn makes its connections with."""

    def make(**given: Any) -> HttpConnection:
        return HttpConnection(door, **given)

    return cast("type[HttpToolsProtocol]", make)
