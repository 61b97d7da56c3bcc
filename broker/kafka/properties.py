"""Converts a message's properties to Kafka headers and back.

Texts are written unchanged, so that clients in any language can read them. Other values are written as JSON or bytes,
and the header `millrace-types` has their types, so that Millrace reads back what it wrote. The user id is not written,
because Kafka does not verify it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from broker.messages import NO_HEADERS, Message
from broker.protocol.header import count_of

HEADER = "millrace"
TYPES = "millrace-types"
DELAYED_TO = "millrace-delayed-to"
DELAYED_UNTIL = "millrace-delayed-until-us"
REPLY_TOPIC = "kafka_replyTopic"
REPLY_PARTITION = "kafka_replyPartition"
CLOUD = "cloudEvents_"  # the prefix of a CloudEvent's attributes in messages, and in AMQP
CLOUD_HERE = "ce_"  # the prefix in CloudEvents' Kafka binding
PARTITION_MARK = "#"  # between topic and partition in a reply address; not allowed in topic names

Headers = list[tuple[str, bytes]]

_DIGITS = 9
_INT32 = 2**32 - 1
_TEXTS = {
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "kafka_correlationId": "correlation_id",
    "message_id": "message_id",
}
_NUMBERS = {"timestamp": "timestamp_s", "priority": "priority"}
_OURS = frozenset({HEADER, TYPES, REPLY_TOPIC, REPLY_PARTITION, DELAYED_TO, DELAYED_UNTIL, *_TEXTS, *_NUMBERS})


def pack_headers(message: Message) -> Headers:
    """Return the headers for a message: all its fields except queue, body, user id and delay."""
    found: Headers = [(HEADER, message.header)] if message.header else []
    for name, attribute in _TEXTS.items():
        text = getattr(message, attribute)
        if text is not None:
            found.append((name, text.encode("utf-8", "surrogateescape")))
    if message.reply_to is not None:
        topic, partition = split_address(message.reply_to)
        found.append((REPLY_TOPIC, topic.encode("utf-8", "surrogateescape")))
        if partition is not None:
            found.append((REPLY_PARTITION, partition.to_bytes(4, "big")))
    if message.timestamp_s is not None:
        found.append(("timestamp", b"%d" % message.timestamp_s))
    if message.priority:
        found.append(("priority", b"%d" % message.priority))
    if message.headers:
        found += pack_plain({name: value for name, value in message.headers.items() if name not in _OURS})
    return found


def pack_plain(headers: Any) -> Headers:
    """Return Kafka headers for headers whose values have any type."""
    found: Headers = []
    types: dict[str, str] = {}
    for known, value in headers.items():
        name = _wire_name(known)
        if isinstance(value, str):
            found.append((name, value.encode("utf-8", "surrogateescape")))
        elif isinstance(value, (bytes, bytearray, memoryview)):
            types[name] = "bytes"
            found.append((name, bytes(value)))
        else:
            types[name] = "json"
            found.append((name, orjson.dumps(value, default=str)))
    if types:
        found.append((TYPES, orjson.dumps(types)))
    return found


def unpack_message(queue: str, headers: Sequence[tuple[str, bytes | None]], body: bytes | None) -> Message:
    """Read a record as a message. It may be from any client, so its headers can have any content."""
    if len(headers) <= 1:  # a message from Millrace itself
        header = headers[0][1] or b"" if headers and headers[0][0] == HEADER else b""
        if header or not headers:
            return Message(queue=queue, body=body or b"", header=header, count=max(1, count_of(header)))
    raw = given(headers)
    header = raw.get(HEADER, b"")
    fields: dict[str, Any] = {attribute: _text(raw[name]) for name, attribute in _TEXTS.items() if name in raw}
    for name, attribute in _NUMBERS.items():
        if raw.get(name, b"").isdigit():
            fields[attribute] = min(int(raw[name][:19]), 2**62)
    if REPLY_TOPIC in raw:
        fields["reply_to"] = _text(raw[REPLY_TOPIC]) + _partition(raw.get(REPLY_PARTITION))
    return Message(
        queue=queue,
        body=body or b"",
        header=header,
        count=max(1, count_of(header)) if header else 1,
        headers=unpack_plain(raw),
        **fields,
    )


def unpack_delayed(queue: str, headers: Sequence[tuple[str, bytes | None]], body: bytes | None) -> Message:
    """Read a record of a delay topic: a message for another queue, with its due time among its headers."""
    message = unpack_message(queue, headers, body)
    raw = given(headers)
    until = raw.get(DELAYED_UNTIL, b"")
    due_us = int(until[:18]) if until.isdigit() else 0
    return replace(
        message, queue=_text(raw.get(DELAYED_TO, queue.encode())), headers={**message.headers, DELAYED_UNTIL: due_us}
    )


def unpack_plain(raw: dict[str, bytes]) -> Any:
    """Read the headers that are not fields of a message."""
    types = _load(raw.get(TYPES, b"{}"))
    if not isinstance(types, dict):
        types = {}
    found = {_known_name(name): _value(value, types.get(name)) for name, value in raw.items() if name not in _OURS}
    return found or NO_HEADERS


def given(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, bytes]:
    """Return the headers that have a value; a null header counts as absent."""
    return {name: value for name, value in headers if value is not None}


def _wire_name(name: str) -> str:
    """Return a header's name on Kafka, where the attributes of a CloudEvent have another prefix."""
    return f"{CLOUD_HERE}{name.removeprefix(CLOUD)}" if name.startswith(CLOUD) else name


def _known_name(name: str) -> str:
    return f"{CLOUD}{name.removeprefix(CLOUD_HERE)}" if name.startswith(CLOUD_HERE) else name


def _value(value: bytes, kind: object) -> Any:
    if kind == "bytes":
        return value
    return _load(value) if kind == "json" else _text(value)


def _load(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _text(text)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _partition(value: bytes | None) -> str:
    """Return the mark and the number of a reply partition, or an empty text if the value is invalid.

    The value is digits, or a four-byte integer as Spring writes it. Four digits are read as digits: as an integer they
    would be a partition above 800 million, which no topic has.
    """
    if value is None:
        return ""
    if value.isdigit() and len(value) <= _DIGITS:
        return f"{PARTITION_MARK}{int(value)}"
    return f"{PARTITION_MARK}{int.from_bytes(value, 'big')}" if len(value) == 4 else ""


def split_address(address: str) -> tuple[str, int | None]:
    """Return topic and partition of a reply address; the partition is None if no valid number follows the mark."""
    topic, mark, number = address.rpartition(PARTITION_MARK)
    if mark and number.isascii() and number.isdigit() and len(number) <= _DIGITS + 1 and int(number) <= _INT32:
        return topic, int(number)
    return address, None
