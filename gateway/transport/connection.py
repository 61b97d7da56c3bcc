"""One HTTP connection: uvicorn's protocol with limits and deadlines. An offered upgrade is ignored."""

from __future__ import annotations

import math
from typing import Any, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.errors import InvalidRequest, Unavailable
from gateway.transport.asgi import ErrorApp
from gateway.transport.door import Door, RefusalReason
from gateway.transport.ending import ANSWER, BODIES_FULL, BODY, CLOSING, CONNECTIONS_FULL, HEAD, IDLE
from gateway.transport.errors import TargetTooLong
from gateway.transport.half_close import probe_half_closed
from gateway.transport.parsing import ParsingConnection

DISCARDED_BYTES = 16 << 20  # of a body whose request is answered already
HEALTH = b"/v2/health"


class HttpConnection(ParsingConnection):
    """The requests and answers of one client: the methods that uvicorn, asyncio and the parser call."""

    _for_health = False  # beyond the limit of connections: only health is served

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

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio uses the result, uvicorn returns none
        """Keep the connection if the client closed only its own direction and still waits for an answer."""
        if self.phase is not ANSWER:
            return False
        self.cycle.keep_alive = False
        probe_half_closed(self)
        return True

    def pause_writing(self) -> None:
        """Set a deadline for a client that does not read its answer."""
        self.read_by_s = self._door.now_s + self._door.limits.body_s
        super().pause_writing()

    def resume_writing(self) -> None:
        self.read_by_s = math.inf
        super().resume_writing()

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
        self._meter.check(self.headers)
        if self.parser.should_upgrade():
            self._upgrading = self.parser.get_method()
            if self._upgrading == b"CONNECT":
                raise InvalidRequest("this gateway is no proxy and does not serve CONNECT")
            return
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
            self._for_health = not self._door.has_place(self)
            if self._for_health:
                self._door.note(RefusalReason.CONNECTIONS_FULL)
                return ErrorApp(Unavailable(CONNECTIONS_FULL))
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if has_body and self._door.bodies_are_full():
            self._door.note(RefusalReason.BODIES_FULL)
            return ErrorApp(Unavailable(BODIES_FULL))
        return self.config.loaded_app

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
