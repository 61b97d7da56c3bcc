"""The AMQP frames of the hot path as bytes: publish, deliver, ack.

pika handles all other frames. It makes an object of each frame, some 15 us for a message each way. Here a message costs
3 us, and a whole batch is written at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from broker.rabbitmq.field_table import pack_short, unpack_short

METHOD, HEADER, BODY = 1, 2, 3
FRAME = struct.Struct(">BHI")  # kind, channel, payload size
END = 0xCE
OVERHEAD = FRAME.size + 1

PUBLISH, RETURN, DELIVER, ACK, NACK = (struct.pack(">HH", 60, method) for method in (40, 50, 60, 80, 120))

_END = bytes((END,))
_CONTENT = struct.Struct(">BHIHHQ")  # a header frame up to the flags: frame, class, weight, body size
_CONTENT_SIZE = _CONTENT.size - FRAME.size
_SETTLE = struct.Struct(">BHI4sQBB")
_SETTLE_SIZE = _SETTLE.size - OVERHEAD
_CONFIRM = struct.Struct(">QB")
_MULTIPLE, _REQUEUE = 1, 2
_MANDATORY = 1


def publish_frame(channel: int, queue: str, *, mandatory: bool) -> bytes:
    """Return the frame of basic.publish to the default exchange."""
    payload = PUBLISH + b"\0\0" + b"\0" + pack_short(queue) + bytes((_MANDATORY if mandatory else 0,))
    return FRAME.pack(METHOD, channel, len(payload)) + payload + _END


def content_frames(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Return the header frame and as many body frames as `frame_max` requires."""
    size = len(body)
    head = _CONTENT.pack(HEADER, channel, _CONTENT_SIZE + len(properties), 60, 0, size)
    if not size:
        return b"".join((head, properties, _END))
    if size <= frame_max - OVERHEAD:
        return b"".join((head, properties, _END, FRAME.pack(BODY, channel, size), body, _END))
    return b"".join((head, properties, _END, *_body_frames(channel, body, frame_max - OVERHEAD)))


def _body_frames(channel: int, body: bytes, limit: int) -> Iterable[bytes | memoryview]:
    view = memoryview(body)
    for at in range(0, len(body), limit):
        piece = view[at : at + limit]
        yield FRAME.pack(BODY, channel, len(piece))
        yield piece
        yield _END


def header_fits(properties: bytes, frame_max: int) -> bool:
    """Return True if a header frame fits: AMQP cannot split it, and the broker closes the connection otherwise."""
    return OVERHEAD + _CONTENT_SIZE + len(properties) <= frame_max


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return basic.ack for one delivery, or with `multiple` for all deliveries up to it."""
    return _SETTLE.pack(METHOD, channel, _SETTLE_SIZE, ACK, tag, _MULTIPLE if multiple else 0, END)


def requeue_frame(channel: int, tag: int) -> bytes:
    """Return basic.nack that gives one delivery back to its queue."""
    return _SETTLE.pack(METHOD, channel, _SETTLE_SIZE, NACK, tag, _REQUEUE, END)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Read basic.ack or basic.nack from the broker: the tag, and whether it covers all tags up to this one."""
    tag, bits = _CONFIRM.unpack_from(payload, 4)
    return tag, bool(bits & _MULTIPLE)


def read_deliver(payload: bytes) -> tuple[int, bool]:
    """Read basic.deliver: the tag, and whether it was delivered before. Skips the routing key: it can be any bytes."""
    at = 5 + payload[4]
    tag, bits = _CONFIRM.unpack_from(payload, at)
    return tag, bool(bits & 1)


def read_return(payload: bytes) -> str:
    """Read the routing key of basic.return."""
    _, at = unpack_short(payload, 6)
    _, at = unpack_short(payload, at)
    return unpack_short(payload, at)[0]


class Contents:
    """Receives the hot path's frames of one channel; a subclass sets `CONTENT` to the method of its messages."""

    CONTENT: bytes  # the method that announces a content

    def __init__(self) -> None:
        self._method = b""
        self._properties = b""
        self._left = 0
        self._pieces: list[bytes] = []

    def on_frame(self, kind: int, payload: bytes) -> bool:
        """Handle a frame and return True; False leaves it to pika."""
        if kind == BODY:
            self._on_body(payload)
            return True
        if kind == HEADER:
            self._on_header(payload)
            return True
        if payload.startswith(self.CONTENT):
            self._method = payload
            return True
        return self.on_method(payload)

    def on_method(self, payload: bytes) -> bool:
        """Handle a method without content and return True; False leaves it to pika."""
        return False

    def on_blocked(self) -> None:
        """Called when the broker stops reading publishes on this connection."""

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        """Handle a complete message."""
        raise NotImplementedError

    def _on_header(self, payload: bytes) -> None:
        self._left = int.from_bytes(payload[4:12], "big")
        self._properties = payload[12:]
        if not self._left:
            self.on_content(self._method, self._properties, b"")

    def _on_body(self, payload: bytes) -> None:
        self._left -= len(payload)
        if self._left <= 0 and not self._pieces:
            self.on_content(self._method, self._properties, payload)
            return
        self._pieces.append(payload)
        if self._left <= 0:
            pieces, self._pieces = self._pieces, []
            self.on_content(self._method, self._properties, b"".join(pieces))
