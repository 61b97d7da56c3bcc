"""Answers as plain messages that any client of the queue can read: plain headers, `message_id` is the uid."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from broker.errors import Failed
from broker.messages import BINARY, JSON, JSON_LENGTH_HEADER, MESSAGE_LIMIT_BYTES, Message
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import uid_text

ANSWER_LIMIT_BYTES = MESSAGE_LIMIT_BYTES - 1024
"""The largest body of an answer; the difference leaves room for its ticket in a bundle."""


def plain(queue: str, request: Request, status: Status, body: bytes, json_length: int | None) -> Message:
    """Return an answer in the form for any client of the queue: plain headers, and the uid as `message_id`."""
    headers = {**_shared_headers(request.route, status)}
    if json_length is not None:
        headers[JSON_LENGTH_HEADER] = json_length
    if request.extra:
        headers.update(cloud_attributes(request))
    return Message(
        queue=queue,
        body=bytes(body),
        headers=headers,
        content_type=JSON if json_length is None else BINARY,
        correlation_id=request.correlation or None,
        message_id=uid_text(request.uid),
    )


def too_large(size: int) -> Failed:
    """Return the error for an answer of `size` bytes, which is too large for a message."""
    return Failed(
        f"the answer has {size} bytes, and at most {ANSWER_LIMIT_BYTES} can be sent: "
        "ask for fewer rows or outputs in one request, or for binary outputs"
    )


def error_body(text: str) -> bytes:
    """Return `{"error": …}`, the form of all errors."""
    return orjson.dumps({"error": clean(text)})


def clean(text: str) -> str:
    """Return a text without surrogates, which can be encoded as UTF-8; clients can send any bytes."""
    return text.encode("utf-8", "replace").decode()


def cloud_attributes(request: Request) -> dict[str, Any]:
    """Return the CloudEvents attributes of an answer, if its request had them."""
    requested = orjson.loads(request.extra).get("cloud_events")
    if not requested:
        return {}
    return {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_type": "millrace.answer.v1",
        "cloudEvents_source": f"/millrace/{request.route.endpoint}",
        "cloudEvents_id": uid_text(request.uid),
        "cloudEvents_causationid": requested.get("id", ""),
    }


@lru_cache(maxsize=1024)
def _shared_headers(route: Route, status: Status) -> dict[str, Any]:
    return {
        "status": status.word,
        "endpoint": route.endpoint,
        "arm": route.arm,
        "model": route.model,
        "version": str(route.version),
    }
