"""One connection: uvicorn's protocol with bounds, deadlines and half-closed clients; an offered upgrade is ignored."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.errors import InvalidRequest, MillraceError, Unavailable
from broker.ids import new_uid, now_us
from gateway.asgi import Receive, Scope, Send, raw_error, send_error
from gateway.door import Door, Ended, Phase
from gateway.errors import HeadTooLarge, TargetTooLong, TooSlow

DISCARDED_BYTES = 16 << 20  # of a body whose request is answered already
LINGER_S = 2.0  # a client that still sends gets to read why this ends
LINGER_BYTES = 1 << 20
FRAMING = 8  # bytes of chunk framing that a byte of a body may have
PROBE_S = 0.25
PROBE_LONGEST_S = 5.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEALTH = b"/v2/health"
NOT_FORWARDED = frozenset((b"upgrade", b"http2-settings"))
FULL = "this gateway has as many connections as it may: try again, or another one"
LOADED = "this gateway holds as many bytes of bodies as it may: try again"
REASONS: dict[type[MillraceError], Ended] = {HeadTooLarge: Ended.HEAD_TOO_LARGE, TargetTooLong: Ended.TARGET_TOO_LONG}


class Connection(HttpToolsProtocol):
    """What one client sends and gets."""

    parser: Any  # None once nothing more is read
    cycle: Any  # of the last request; None before the first

    def __init__(self, door: Door, **given: Any) -> None:
        super().__init__(**given)
        self._door = door
        self._head_limit, self._target_limit = door.limits.head_bytes, door.limits.target_bytes
        self.phase = Phase.SILENT
        self.since_s = time.monotonic()  # exact: those that came first go first
        self.due_s = door.now_s + door.limits.head_s
        self.read_by_s = math.inf
        self._for_health = False
        self._upgrading = b""  # the method of a request that offers an upgrade
        self._head_bytes = 0  # of what the parser has given us of a head
        self._fed_bytes = 0  # of a head or a body that is not whole, as it came
        self._sizes: deque[int] = deque()  # bytes of the bodies of requests that have not ended, in order
        self._discarded = 0

    # -- the connection

    def connection_made(self, transport: Any) -> None:
        """Serve it if there is room."""
        super().connection_made(transport)
        door = self._door
        if door.is_full():
            self._for_health = door.has_room_for_health()
            if not self._for_health:
                door.note(Ended.CONNECTIONS_FULL)
                self._last_words(Unavailable(FULL))
                self._close()
        door.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._door.connections.discard(self)
        self._door.arrived(self)
        for _ in range(len(self.pipeline)):  # requests that nobody will start
            self._door.held_bytes -= self._sizes.pop()
        self.pipeline.clear()
        self.phase, self.due_s = Phase.CLOSING, math.inf
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads the answer, uvicorn gives none
        """Go on if the client only ended its own direction: its answer is still to come."""
        if self.phase is not Phase.ANSWER:
            return False
        self.cycle.keep_alive = False
        self._probe_later(PROBE_S)
        return True

    def _probe_later(self, wait_s: float) -> None:
        """Find out whether a client that sends no more is gone: only writing to it tells. HTTP/1.0 has no such word."""
        if self.scope["http_version"] == "1.1":
            self.loop.call_later(wait_s, self._probe, wait_s)

    def _probe(self, waited_s: float) -> None:
        if self.transport.is_closing() or self.cycle.response_started or self.pipeline:
            return
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

    # -- what comes

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is too large, too long or no HTTP gets a typed answer and ends the connection."""
        if self.parser is None:
            self._discard(len(data), LINGER_BYTES)
            return
        before = self.phase
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            self._refuse_head(exc.__context__)
            return
        if self.phase is Phase.HEAD:
            if before < Phase.BODY:
                self._fed_bytes += len(data)
                if self._fed_bytes > self._head_limit:
                    self._refuse_head(self._too_large())
        elif self.phase is Phase.BODY:
            self._check_body(len(data) if before is Phase.BODY else 0)

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                data = self._without_upgrade() + data[exc.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
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
        self._turn(Phase.HEAD, self._door.limits.head_s)
        self._head_bytes = self._fed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Add a piece of the target."""
        self.url += url
        if len(self.url) > self._target_limit:
            raise TargetTooLong(f"the request target has more than the {self._target_limit} bytes allowed here")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers of a chunked body are not read."""
        if self.phase is not Phase.HEAD:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self._head_limit:
            raise self._too_large()
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request, or its refusal."""
        if self.parser.should_upgrade():
            self._upgrading = self.parser.get_method()
            if self._upgrading == b"CONNECT":
                raise InvalidRequest("CONNECT is not for this gateway: it is no proxy")
            return
        self.app = self._app()
        super().on_headers_complete()
        self._sizes.append(0)
        self._discarded = self._fed_bytes = 0
        self._turn(Phase.BODY, self._door.limits.body_s)
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
        if self in self._door.arriving:
            self._door.arrived(self)
        if self.cycle.response_complete:
            self._turn(Phase.IDLE, self._door.limits.idle_s)
            return
        self.phase, self.due_s = Phase.ANSWER, math.inf
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _app(self) -> Any:
        """Return what answers this request: the gateway, or why it does not."""
        if self._for_health and not self.url.startswith(HEALTH):
            self._door.note(Ended.CONNECTIONS_FULL)
            return _Refusal(FULL)
        if self._door.is_loaded() and self._has_body():
            self._door.note(Ended.BODIES_FULL)
            return _Refusal(LOADED)
        return self.config.loaded_app

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _check_body(self, fed: int) -> None:
        """Count a body that is not whole yet; framing that outweighs it is an attack."""
        size = self._sizes[-1] if self._sizes else 0
        if self.cycle.response_complete:
            return
        self._fed_bytes += fed
        if self._fed_bytes > self._head_limit + (1 + FRAMING) * size:
            self._refuse_head(self._too_large())
            return
        self._door.arrive(self, size - self._door.arriving.get(self, 0))

    # -- what goes

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start a request; its bytes are held until it has ended, whether its client is still there or not."""
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
            self._turn(Phase.CLOSING, self._door.limits.body_s)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.phase is Phase.ANSWER:
            self._turn(Phase.IDLE, self._door.limits.idle_s)
        else:
            self._door.arrived(self)  # the rest of a body that nobody wants any more

    # -- the ends

    def expire(self) -> None:
        """End what took too long."""
        limits = self._door.limits
        if self.phase is Phase.CLOSING:
            self.transport.abort()
        elif self.phase is Phase.IDLE:
            self._close()
        elif self.is_answering():
            self._turn(self.phase, limits.head_s)
        elif self.phase is Phase.BODY:
            error = TooSlow(f"the body was not whole after {limits.body_s:g} seconds")
            self._refuse(error, Ended.BODY_TOO_SLOW)
        else:
            self._refuse(TooSlow(f"no request was whole after {limits.head_s:g} seconds"), Ended.HEAD_TOO_SLOW)

    def leave_unread(self) -> None:
        """End a connection whose client does not read."""
        self.read_by_s = math.inf
        self.transport.abort()

    def displace(self) -> None:
        """Make room for another connection, at once."""
        self._last_words(Unavailable(FULL))
        self._close()

    def drop_body(self) -> None:
        """Make room for the bodies of others."""
        self._refuse(Unavailable(LOADED), None)

    def is_answering(self) -> bool:
        """Tell whether an earlier request of this connection, or a whole one, waits for its answer."""
        cycle = self.cycle
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def _turn(self, phase: Phase, within_s: float) -> None:
        self.phase, self.since_s = phase, self._door.now_s
        self.due_s = self.since_s + within_s

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"headers, trailers or chunk framing take more than the {self._head_limit} bytes allowed")

    def _refuse_head(self, error: BaseException | None) -> None:
        if not isinstance(error, MillraceError):
            error = InvalidRequest("Invalid HTTP request received.")
        self._refuse(error, REASONS.get(type(error), Ended.MALFORMED))

    def _refuse(self, error: MillraceError, why: Ended | None) -> None:
        """Say why, read no more, and close soon; an earlier request still gets its answer."""
        if why is not None:
            self._door.note(why)
        self._door.arrived(self)
        self.parser = None
        self._discarded = 0
        if self.is_answering():
            self.cycle.keep_alive = False
            return
        silent = self.phase is Phase.SILENT
        self._last_words(error)
        if silent or not self.transport.can_write_eof():
            self._close()
            return
        self._leave()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._turn(Phase.CLOSING, LINGER_S)

    def _last_words(self, error: MillraceError) -> None:
        """Write an error if a request has begun, or a connection cannot, and no answer has."""
        cycle = self.cycle
        fresh = cycle is None or (cycle.response_complete and self.phase is not Phase.BODY)
        began = self.phase in (Phase.HEAD, Phase.BODY) or self not in self._door.connections
        if began and (fresh or not cycle.response_started):
            self.transport.write(raw_error(error, new_uid(now_us())))

    def _leave(self) -> None:
        """Tell the request that its client is gone."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _close(self) -> None:
        self._leave()
        if self.transport.get_write_buffer_size() > HIGH_WATER_LIMIT:  # it is not read
            self.transport.abort()
            return
        self._turn(Phase.CLOSING, LINGER_S)
        self.transport.close()

    def _discard(self, size: int, most: int) -> None:
        self._discarded += size
        if self._discarded > most:
            self.transport.abort()


class _Refusal:
    """Answers a request that the door does not let in."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503 with Retry-After."""
        del scope, receive
        await send_error(send, Unavailable(self._why), new_uid(now_us()))


def connection_factory(door: Door) -> type[HttpToolsProtocol]:
    """Return what uvicorn makes its connections with."""

    def make(**given: Any) -> Connection:
        return Connection(door, **given)

    return cast("type[HttpToolsProtocol]", make)
