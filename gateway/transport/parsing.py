"""The incoming bytes of a connection: parsed in pieces, within limits, with deadlines for unfinished requests."""

from __future__ import annotations

from typing import Any

import httptools

from broker.errors import InvalidRequest, MillraceError, Unavailable
from gateway.transport import pieces
from gateway.transport.backlog import PIPELINED_MOST
from gateway.transport.body import number
from gateway.transport.door import Door, RefusalReason
from gateway.transport.ending import BODIES_FULL, BODY, HEAD, EndingConnection
from gateway.transport.errors import HeadTooLarge, TargetTooLong
from gateway.transport.head_meter import HeadMeter
from gateway.transport.held_bodies import HeldBodies
from gateway.transport.upgrade import head_without_upgrade

LINGER_BYTES = 1 << 20  # after the connection has been refused
REASONS: dict[type[MillraceError], RefusalReason] = {
    HeadTooLarge: RefusalReason.HEAD_TOO_LARGE,
    TargetTooLong: RefusalReason.TARGET_TOO_LONG,
}


class ParsingConnection(EndingConnection):
    """A connection that feeds its bytes to the parser, and refuses heads and framing that are too large."""

    def __init__(self, door: Door, **uvicorn: Any) -> None:
        super().__init__(door, **uvicorn)
        self._meter = HeadMeter(door.limits.head_bytes)
        self._bodies = HeldBodies(door)
        self._upgrading = b""  # the method of a request that offers an upgrade
        self._is_timed = False  # the unfinished head or body has its deadline

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
