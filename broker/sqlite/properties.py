"""A message's properties as JSON; bytes values are in hexadecimal, marked by `$bytes`."""

from __future__ import annotations

from typing import Any

import orjson

from broker.messages import NO_HEADERS, Message

_BYTES = "$bytes"
_NONE = b""


def pack(message: Message) -> bytes:
    """Return everything but the header and the body; empty if all properties have their defaults."""
    plain = (
        message.content_type,
        message.correlation_id,
        message.message_id,
        message.reply_to,
        message.user_id,
        message.timestamp_s,
    )
    encoding = message.content_encoding
    if not message.headers and encoding is None and plain == (None,) * 6 and not message.priority:
        return _NONE
    texts = [_writable(value) for value in plain]
    headers = {key: _writable(value) for key, value in message.headers.items()}
    last = [] if encoding is None else [_writable(encoding)]
    return orjson.dumps([*texts, message.priority, headers, *last])


def unpack(data: bytes, queue: str, header: bytes, body: bytes, count: int) -> Message:
    """Return the message that `pack` wrote."""
    if not data:
        return Message(queue=queue, body=body, header=header, count=count)
    (content_type, correlation_id, message_id, reply_to, user_id, timestamp_s, priority, headers, *last) = orjson.loads(
        data
    )
    return Message(
        queue=queue,
        body=body,
        header=header,
        count=count,
        content_type=content_type,
        content_encoding=_readable(last[0]) if last else None,
        correlation_id=_readable(correlation_id),
        message_id=_readable(message_id),
        reply_to=_readable(reply_to),
        user_id=_readable(user_id),
        timestamp_s=timestamp_s,
        priority=priority,
        headers={key: _readable(value) for key, value in headers.items()} or NO_HEADERS,
    )


def pack_headers(headers: dict[str, Any] | Any) -> bytes:
    """Return a log record's headers as bytes."""
    return orjson.dumps({key: _writable(value) for key, value in headers.items()}) if headers else _NONE


def unpack_headers(data: bytes) -> Any:
    """Return the headers that `pack_headers` wrote."""
    return {key: _readable(value) for key, value in orjson.loads(data).items()} if data else NO_HEADERS


def _writable(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {_BYTES: bytes(value).hex()}
    if isinstance(value, str) and not _is_utf8(value):
        return {_BYTES: value.encode("utf-8", "surrogateescape").hex(), "text": True}
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(value: Any) -> Any:
    if isinstance(value, dict) and _BYTES in value:
        data = bytes.fromhex(value[_BYTES])
        return data.decode("utf-8", "surrogateescape") if value.get("text") else data
    return value
