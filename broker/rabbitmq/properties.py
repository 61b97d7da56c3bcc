"""Converts a message's properties and headers to AMQP's content header and back."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from broker.messages import NO_HEADERS, Message
from broker.protocol.header import count_of
from broker.rabbitmq.field_table import pack_short, pack_value, unpack_short, unpack_table

HEADER = "millrace"
UNREADABLE = "millrace-unreadable"  # why a message's properties could not be read; its headers are lost then
USER = "millrace-user-id"
DELIVERY_COUNT = "x-delivery-count"
STREAM_OFFSET = "x-stream-offset"

# The broker acts on these. CC and BCC would send a forwarded message to other queues too, and with x-death the broker
# would drop it as a cycle when it waits in the same delay queue again.
_BROKERS_OWN = frozenset(
    {
        "CC",
        "BCC",
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        DELIVERY_COUNT,
        STREAM_OFFSET,
    }
)

_CONTENT_TYPE, _ENCODING, _HEADERS, _MODE, _PRIORITY, _CORRELATION = (1 << bit for bit in range(15, 9, -1))
_REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP, _TYPE, _USER_ID = (1 << bit for bit in range(9, 3, -1))
_FLAGS = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_U64_LIMIT = (1 << 64) - 1
_TRANSIENT, _PERSISTENT = b"\x01", b"\x02"
_OUR_HEADER = pack_short(HEADER) + b"x"


def pack_properties(message: Message, *, persistent: bool, user: str) -> bytes:
    """Return flags and properties; raises TooLarge or InvalidRequest for values that AMQP cannot represent.

    RabbitMQ closes the channel on a user id that is not the connection's own: another user id travels as a plain
    header.
    """
    flags, pieces = _pack_content(message)
    foreign = message.user_id is not None and message.user_id != user
    if message.header or message.headers or foreign:
        flags |= _HEADERS
        pieces.append(_pack_headers(message, foreign=foreign))
    pieces.append(_PERSISTENT if persistent else _TRANSIENT)
    if message.priority:
        flags |= _PRIORITY
        pieces.append(bytes((max(0, min(message.priority, 255)),)))
    for flag, text in (
        (_CORRELATION, message.correlation_id),
        (_REPLY_TO, message.reply_to),
        (_MESSAGE_ID, message.message_id),
    ):
        if text is not None:
            flags |= flag
            pieces.append(pack_short(text))
    if message.timestamp_s is not None:
        flags |= _TIMESTAMP
        pieces.append(_U64.pack(max(0, min(message.timestamp_s, _U64_LIMIT))))
    if message.user_id is not None and not foreign:
        flags |= _USER_ID
        pieces.append(_short(message.user_id))
    return _FLAGS.pack(flags) + b"".join(pieces)


def _pack_content(message: Message) -> tuple[int, list[bytes]]:
    flags, pieces = _MODE, []
    if message.content_type is not None:
        flags |= _CONTENT_TYPE
        pieces.append(_short(message.content_type))
    if message.content_encoding is not None:
        flags |= _ENCODING
        pieces.append(_short(message.content_encoding))
    return flags, pieces


@lru_cache(maxsize=64)
def _short(text: str) -> bytes:
    return pack_short(text)


def _pack_headers(message: Message, *, foreign: bool) -> bytes:
    pieces = []
    if message.header:
        pieces = [_OUR_HEADER, _U32.pack(len(message.header)), message.header]
    for name, value in message.headers.items():
        if name not in _BROKERS_OWN and name != HEADER:
            pieces += [pack_short(name), pack_value(value)]
    if foreign:
        pieces += [pack_short(USER), pack_value(message.user_id)]
    data = b"".join(pieces)
    return _U32.pack(len(data)) + data


def unpack_message(queue: str, properties: bytes, body: bytes) -> tuple[Message, int]:
    """Return a delivered message, and the broker's count of its earlier deliveries.

    If a foreign client's properties cannot be read, the message has only the header `UNREADABLE`.
    """
    try:
        fields = unpack_properties(properties)
    except (struct.error, ValueError, ArithmeticError, IndexError, RecursionError) as exc:
        return Message(queue=queue, body=body, headers={UNREADABLE: f"{type(exc).__name__}: {exc}"}), 0
    count = fields.pop("delivery_count")
    return Message(queue=queue, body=body, **fields), count


def unpack_properties(data: bytes) -> dict[str, Any]:
    """Read flags and properties as keyword arguments of a Message, and `delivery_count`."""
    flags = _FLAGS.unpack_from(data)[0]
    at = _FLAGS.size
    if flags & 1:
        raise ValueError("unknown property flags")
    fields: dict[str, Any] = {"delivery_count": 0}
    if flags & _CONTENT_TYPE:
        fields["content_type"], at = unpack_short(data, at)
    if flags & _ENCODING:
        fields["content_encoding"], at = unpack_short(data, at)
    if flags & _HEADERS:
        at = _unpack_headers(data, at, fields)
    if flags & _MODE:
        at += 1
    if flags & _PRIORITY:
        fields["priority"] = data[at]
        at += 1
    _unpack_rest(data, at, flags, fields)
    return fields


def _unpack_headers(data: bytes, at: int, fields: dict[str, Any]) -> int:
    table, at = unpack_table(data, at)
    ours = table.pop(HEADER, None)
    if isinstance(ours, str):  # clients without byte arrays send strings
        ours = ours.encode("utf-8", "surrogateescape")
    if isinstance(ours, bytes):
        fields["header"] = ours
        fields["count"] = max(1, count_of(ours))
    count = table.pop(DELIVERY_COUNT, None)
    if isinstance(count, int):
        fields["delivery_count"] = count
    fields["headers"] = _visible(table)
    return at


def _visible(table: dict[str, Any]) -> Mapping[str, Any]:
    if not table:
        return NO_HEADERS
    return {name: value for name, value in table.items() if name not in _BROKERS_OWN}


def _unpack_rest(data: bytes, at: int, flags: int, fields: dict[str, Any]) -> None:
    for flag, name in (
        (_CORRELATION, "correlation_id"),
        (_REPLY_TO, "reply_to"),
        (_EXPIRATION, ""),
        (_MESSAGE_ID, "message_id"),
    ):
        if flags & flag:
            fields[name], at = unpack_short(data, at)
    fields.pop("", None)
    if flags & _TIMESTAMP:
        fields["timestamp_s"] = _U64.unpack_from(data, at)[0]
        at += _U64.size
    if flags & _TYPE:
        _, at = unpack_short(data, at)
    if flags & _USER_ID:
        fields["user_id"], at = unpack_short(data, at)


def unpack_record(properties: bytes) -> tuple[int, Mapping[str, Any]]:
    """Return a record's offset and headers; headers that cannot be read are replaced by `UNREADABLE`."""
    try:
        flags, at = _FLAGS.unpack_from(properties)[0], _FLAGS.size
        for flag in (_CONTENT_TYPE, _ENCODING):
            if flags & flag:
                _, at = unpack_short(properties, at)
        table, _ = unpack_table(properties, at)
        return table.pop(STREAM_OFFSET), _visible(table)
    except (struct.error, ValueError, ArithmeticError, IndexError, RecursionError) as exc:
        return _hidden_offset(properties), {UNREADABLE: f"{type(exc).__name__}: {exc}"}


def _hidden_offset(properties: bytes) -> int:
    """Find the offset after headers that cannot be read: without it, a reader could never get past this record."""
    name = pack_short(STREAM_OFFSET)
    at = properties.rfind(name)
    if at < 0:
        raise ValueError("a record without an offset: is this queue a stream?")
    return int.from_bytes(properties[at + len(name) + 1 : at + len(name) + 9], "big", signed=True)
