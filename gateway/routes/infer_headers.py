"""Reads the headers of an infer request."""

from __future__ import annotations

import re

import orjson

from broker.errors import InvalidRequest
from gateway.transport.body import number

Headers = dict[bytes, bytes]

TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
WANTED = frozenset(
    (
        b"inference-header-content-length",
        b"content-encoding",
        b"content-length",
        b"traceparent",
        b"tracestate",
        b"timeout_ms",
        b"millrace-timeout-ms",
        b"millrace-key",
        b"millrace-arm",
        b"prefer",
        b"idempotency-key",
    )
)


def json_length_of(headers: Headers, size: int) -> int | None:
    """The number of bytes of JSON before raw tensors; None if the whole body is JSON."""
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    length = number(text)
    if length is None or length > size:
        raise InvalidRequest(
            f"Inference-Header-Content-Length: {_shown(text)} is not a number of bytes up to the body's {size}"
        )
    return length


def pin_of(headers: Headers, pin: str | None) -> str | None:
    """The arm that a client pins, by the path or by the header `millrace-arm`; None if it pins none."""
    text = headers.get(b"millrace-arm")
    if text is None:
        return pin
    if pin is not None and text.decode("latin-1") != pin:
        raise InvalidRequest(f"millrace-arm: {_shown(text)} is not the path's version, {pin!r}: send one of them")
    return text.decode("latin-1")


def key_of_client(headers: Headers) -> str:
    """The assignment key of the client, or empty."""
    return headers.get(b"millrace-key", b"").decode("utf-8", "replace")


def allowed_s_of(headers: Headers, longest_s: float) -> float:
    """The seconds allowed for a request: the client's timeout, at most the deadline of the endpoint."""
    text = headers.get(b"millrace-timeout-ms") or headers.get(b"timeout_ms")
    if text is None:
        return longest_s
    allowed_ms = number(text)
    if not allowed_ms:
        raise InvalidRequest(f"millrace-timeout-ms: {_shown(text)} is not a positive number of milliseconds")
    return min(longest_s, allowed_ms / 1000)


def trace_of(headers: Headers) -> str:
    """The W3C trace parent; empty if there is none or it is malformed."""
    value = headers.get(b"traceparent", b"")
    return value.decode() if TRACEPARENT.fullmatch(value) else ""


def extra_of(headers: Headers) -> bytes:
    """The rare attributes of a request as JSON; empty if there are none."""
    state = headers.get(b"tracestate")
    return orjson.dumps({"tracestate": state.decode("latin-1")[:512]}) if state else b""


def _shown(text: bytes) -> str:
    return repr(text[:100].decode("latin-1"))
