"""One HTTP connection: uvicorn's protocol with limits and deadlines. An offered upgrade is ignored."""

from __future__ import annotations

import math
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.errors import InvalidRequest, MillraceError, Unavailable
from gateway.transport import pieces
from gateway.transport.asgi import ErrorApp
from gateway.transport.backlog import PIPELINED_MOST
from gateway.transport.body import number
from gateway.transport.door import Door, RefusalReason
from gateway.transport.ending import (
    ANSWER,
    BODIES_FULL,
    BODY,
    CLOSING,
    CONNECTIONS_FULL,
    HEAD,
    IDLE,
    EndingConnection,
)
from gateway.transport.errors import HeadTooLarge, TargetTooLong
from gateway.transport.head_meter import HeadMeter
from gateway.transport.held_bodies import HeldBodies
from gateway.transport.upgrade import head_without_upgrade

DISCARDED_BYTES = 16 << 20  # of a body whose request is answered already
LINGER_BYTES = 1 << 20  # after the connection has been refused
HEALTH = b"/v2/health"
REASONS: dict[type[MillraceError], RefusalReason] = {
    HeadTooLarge: RefusalReason.HEAD_TOO_LARGE,
    TargetTooLong: RefusalReason.TARGET_TOO_LONG,
}


class HttpConnection(EndingConnection):
    """The requests and answers of one client."""

    def __init__(self, door: Door, **uvicorn: Any) -> None:
        super().__init__(door, **uvicorn)
        self._meter = HeadMeter(door.limits.head_bytes)
        self._bodies = HeldBodies(door)
        self._for_health = False  # beyond the limit of connections: only health is served
        self._upgrading = b""  # the method of a request that offers an upgrade
        self._is_timed = False  # the unfinished head or body has its deadline

    # -- the connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        door = self._door
        if door.is_full():
            self._for_health = door.has_room_for_health()
            if not self._for_health:
                self.turn_away()
                return
        door.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._door.refused.discard(self)
        self._door.arrived(self)
        self._backlog.take()
        for _ in range(len(self.pipeline)):  # these requests will not run
            self._bodies.drop_newest()
        self.pipeline.clear()
        self.phase, self.due_s = CLOSING, math.inf
        self._disconnect(self.running)  # uvicorn disconnects only the newest request
        super().connection_lost(exc)

    # -- incoming bytes

    def data_received(self, data: bytes) -> None:
        """Parse bytes; anything that is too large, too long or not HTTP gets a typed answer and ends the connection."""
        if self.parser is None:
            self._discard(len(data), LINGER_BYTES)
            return
        if not self.pipeline and pieces.is_one_piece(data):
            self._feed(data)
        else:
            kept, at = self._backlog.take()
            self._feed_pieces(kept[at:] + data, 0)
        self._note_unfinished()

    def _feed_pieces(self, data: bytes, at: int) -> None:
        """Parse the bytes from `at` on until too many requests wait, and keep the rest unparsed."""
        view = memoryview(data)
        while at < len(data) and self.parser is not None:
            if len(self.pipeline) >= PIPELINED_MOST:
                self._keep(data, at)
                return
            end = self._piece_end(data, at)
            self._feed(view[at:end])
            at = end

    def _piece_end(self, data: bytes, at: int) -> int:
        if self.phase is not BODY:
            return pieces.head_end(data, at)
        left = self._body_left()
        return pieces.piece_end(data, at) if left is None else at + left

    def _body_left(self) -> int | None:
        """Bytes of the body that are still to come; None if its length is unknown."""
        if not self.cycle.response_complete:
            for name, value in self.scope["headers"]:
                if name == b"content-length" and (size := number(value)) is not None:
                    return size - self._bodies.newest_bytes or None
        return None

    def _keep(self, data: bytes, at: int) -> None:
        if self._door.bodies_are_full():
            self._refuse(Unavailable(BODIES_FULL), RefusalReason.BODIES_FULL)
        else:
            self._backlog.keep(data, at)

    def _parse_backlog(self) -> None:
        """Parse the kept bytes after a request of this connection has ended."""
        self._is_timed = False  # the client could not send more of it meanwhile
        self._feed_pieces(*self._backlog.take())
        self._note_unfinished()
        self.flow.resume_reading()

    def _feed(self, piece: bytes | memoryview) -> None:
        self._meter.begin_piece(len(piece))
        try:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as exc:
                self._feed_without_upgrade(piece, exc.args[0])
        except httptools.HttpParserError as exc:
            self._refuse_head(exc.__context__)
            return
        self._meter.end_piece(len(piece))
        if self._is_oversized():
            self._refuse_head(self._meter.error())

    def _feed_without_upgrade(self, data: bytes | memoryview, at: int) -> None:
        """Parse again with the head of the request at `at` written without its offer to upgrade."""
        while True:
            version = self.parser.get_http_version()
            data = head_without_upgrade(self._upgrading, self.url, version, self.headers) + data[at:]
            self._upgrading = b""
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                at = exc.args[0]
            else:
                return

    # -- called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.phase, self._is_timed = HEAD, False
        self._meter.begin_head()

    def on_url(self, url: bytes) -> None:
        self.url += url
        limit = self._door.limits.target_bytes
        if len(self.url) > limit:
            raise TargetTooLong(f"the request target has more than the {limit} bytes allowed here")

    def on_headers_complete(self) -> None:
        """Start the request, or an app that refuses it."""
        if self.parser.should_upgrade():
            self._upgrading = self.parser.get_method()
            if self._upgrading == b"CONNECT":
                raise InvalidRequest("this gateway is no proxy and does not serve CONNECT")
            return
        self._meter.check(self.headers)
        if self._for_health or self._door.bodies_are_full():
            self.app = self._app()
            super().on_headers_complete()
            self.app = self.config.loaded_app
        else:
            super().on_headers_complete()
        self.headers = []  # a list of its own for the trailers, which are dropped
        self._bodies.begin()
        self.phase, self._is_timed = BODY, False
        self._meter.begin_body()
        if self.scope["http_version"] == "1.0" and self.parser.should_keep_alive():
            self.cycle.keep_alive = True
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            self._discard(len(body), DISCARDED_BYTES)
            return
        self._bodies.add(len(body))
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:  # small bodies wake their request only once they are complete
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        if self.headers:  # trailers
            self._meter.check(self.headers)
        self._meter.end_request()
        if self._is_arriving:
            self._arrived()
        if self.cycle.response_complete:
            self._enter(IDLE, self._door.limits.idle_s)
            return
        self.phase, self.due_s = ANSWER, math.inf
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _app(self) -> Any:
        """The app that answers this request: the gateway, or one that refuses it."""
        if self._for_health and not self.url.startswith(HEALTH):
            self._door.note(RefusalReason.CONNECTIONS_FULL)
            return ErrorApp(Unavailable(CONNECTIONS_FULL))
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if has_body and self._door.bodies_are_full():
            self._door.note(RefusalReason.BODIES_FULL)
            return ErrorApp(Unavailable(BODIES_FULL))
        return self.config.loaded_app

    # -- limits of unfinished requests

    def _is_oversized(self) -> bool:
        if not self._meter.is_head_oversized():
            return False
        if self.phase is BODY:
            return not self.cycle.response_complete and self._meter.is_framing_oversized(self._bodies.newest_bytes)
        return self.phase is HEAD

    def _note_unfinished(self) -> None:
        """Set the deadline of a head or body that is not complete, and let the door count the bytes of the body."""
        if self.parser is None:
            return
        if self.phase is HEAD:
            self._time(self._door.limits.head_s)
        elif self.phase is BODY:
            self._time(self._door.limits.body_s)
            if not self.cycle.response_complete:
                self._is_arriving = True
                self._door.arrive(self, self._bodies.newest_bytes - self._door.arriving.get(self, 0))

    def _time(self, within_s: float) -> None:
        """Set the deadline of a head or a body once; one that arrives in a single read needs none."""
        if not self._is_timed:
            self._is_timed = True
            self._enter(self.phase, within_s)

    def _refuse_head(self, error: BaseException | None) -> None:
        if not isinstance(error, MillraceError):
            error = InvalidRequest("Invalid HTTP request received.")
        self._refuse(error, REASONS.get(type(error), RefusalReason.MALFORMED))

    # -- requests that run

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start a request. Its body counts until the request has ended, even if the client disconnects."""
        self.running = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self._ended)
        self.tasks.add(task)

    def _ended(self, task: Any) -> None:
        self.tasks.discard(task)
        self._bodies.end_oldest()

    def on_response_complete(self) -> None:
        """Start the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._enter(CLOSING, self._door.limits.body_s)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.phase is ANSWER:
            self._enter(IDLE, self._door.limits.idle_s)
        else:
            self._arrived()  # the rest of the body will be discarded
        if self._backlog:
            self._parse_backlog()


def connection_factory(door: Door) -> type[HttpToolsProtocol]:
    """Return the factory with which uvicorn makes its connections."""

    def make(**uvicorn: Any) -> HttpConnection:
        return HttpConnection(door, **uvicorn)

    return cast("type[HttpToolsProtocol]", make)
