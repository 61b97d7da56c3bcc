"""Reads a queue client's message as a request. Nothing in a message is trusted before it has been checked here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.channels import Channels
from broker.errors import InvalidRequest
from broker.messages import JSON_LENGTH_HEADER, Delivery, Message
from broker.protocol.answers import clean
from broker.protocol.header import ReplyTo
from broker.protocol.ids import derived_uid, new_uid

FIRST_BYTES = 64 * 1024
ARM_CHARACTERS = 256
ADDRESS_CHARACTERS = 255  # AMQP's own limit for reply_to and correlation_id
CLOUD_ATTRIBUTES = 32
CLOUD_CHARACTERS = 256
EXTRA_BYTES = 16 * 1024
TIMEOUT_LIMIT_MS = 7 * 24 * 3600 * 1000
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
ARM_HEADER = "millrace-arm"
CLOUD = ("cloudEvents_", "cloudEvents:")


@dataclass(frozen=True, slots=True)
class QueueRequestHeaders:
    """The checked headers of a client's message."""

    reply: ReplyTo
    reply_to: str
    timeout_ms: int | None
    json_length: int | None
    key: str
    trace: str
    extra: bytes
    pin: str | None = None  # the arm that the client asks for


def identity(endpoint: str, delivery: Delivery, origin: bytes | None, now_us: int) -> bytes:
    """Return the request's uid: the same for every redelivery, if the broker identifies redeliveries."""
    message = delivery.message
    if origin is not None:
        return derived_uid(b"origin", endpoint.encode(), origin)
    if not message.message_id:
        return new_uid(now_us)
    texts = (
        endpoint,
        message.user_id or "",
        message.reply_to or "",
        message.message_id,
        str(message.timestamp_s or ""),
    )
    parts = [text.encode("utf-8", "surrogateescape") for text in texts]
    return derived_uid(*parts, str(len(message.body)).encode(), message.body[:FIRST_BYTES])


def where_to_answer(message: Message, channels: Channels) -> tuple[ReplyTo, str]:
    """Return the way and the address of the answer; one of Millrace's own channels is no valid reply address."""
    if message.reply_to and _is_text(message.reply_to) and channels.may_be_answered_at(message.reply_to):
        return ReplyTo.CLIENT, message.reply_to
    return ReplyTo.RESULTS, ""


def read_headers(message: Message, channels: Channels) -> QueueRequestHeaders:
    """Read a client's headers; raises InvalidRequest naming the header and its value."""
    headers = message.headers
    if message.reply_to and not channels.may_be_answered_at(message.reply_to):
        raise InvalidRequest(f"reply_to {message.reply_to!r} is a channel of Millrace: name another queue")
    for name, text in (("reply_to", message.reply_to), ("correlation_id", message.correlation_id)):
        if text and len(text.encode("utf-8", "surrogateescape")) > ADDRESS_CHARACTERS:
            raise InvalidRequest(
                f"{name} {text[:40]!r}… has {len(text)} characters: {ADDRESS_CHARACTERS} bytes are allowed"
            )
    if message.reply_to and not _is_text(message.reply_to):
        raise InvalidRequest(f"reply_to {message.reply_to!r} is not UTF-8: no queue can have that name here")
    reply, reply_to = where_to_answer(message, channels)
    return QueueRequestHeaders(
        reply=reply,
        reply_to=reply_to,
        timeout_ms=_number(headers, "timeout_ms", 1, TIMEOUT_LIMIT_MS),
        json_length=_number(headers, JSON_LENGTH_HEADER, 0, len(message.body)),
        key=_text(headers, "key"),
        trace=_trace(headers),
        extra=_extra(headers),
        pin=_text(headers, ARM_HEADER)[:ARM_CHARACTERS] or None,
    )


def _number(headers: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,18}", text) or not least <= int(text) <= most:
        raise InvalidRequest(f"header {name}: {text[:100]!r} is not a whole number from {least} to {most}")
    return int(text)


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name, "")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return clean(text)


def tenant_of(message: Message) -> str:
    """Return the user that the broker has validated, as clean text."""
    return clean(message.user_id or "")[:ADDRESS_CHARACTERS]


def _is_text(text: str) -> bool:
    return clean(text) == text


def _trace(headers: Mapping[str, Any]) -> str:
    value = _text(headers, "traceparent")
    return value if TRACEPARENT.fullmatch(value) else ""


def _extra(headers: Mapping[str, Any]) -> bytes:
    extra: dict[str, Any] = {}
    if "tracestate" in headers:
        extra["tracestate"] = _text(headers, "tracestate")[:512]
    named = [name for name in headers if name.startswith(CLOUD)]
    if len(named) > CLOUD_ATTRIBUTES:
        raise InvalidRequest(f"{len(named)} CloudEvents attributes; {CLOUD_ATTRIBUTES} are allowed")
    cloud = {clean(name[len(CLOUD[0]) :])[:CLOUD_CHARACTERS]: _text(headers, name)[:CLOUD_CHARACTERS] for name in named}
    if cloud:
        extra["cloud_events"] = cloud
    packed = orjson.dumps(extra) if extra else b""
    if len(packed) > EXTRA_BYTES:
        raise InvalidRequest(
            f"tracestate and CloudEvents attributes take {len(packed)} bytes; {EXTRA_BYTES} are allowed"
        )
    return packed
