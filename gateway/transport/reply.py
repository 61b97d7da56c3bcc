"""HTTP answers: the bytes that the processor wrote, with headers that name the arm and its version."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import orjson

from broker.messages import BINARY, JSON
from broker.protocol.header import Answer, Status
from broker.protocol.ids import uid_text
from gateway.transport.asgi import REQUEST_ID, HeaderList
from gateway.transport.errors import BY_STATUS

PENDING_RETRY_S = 1


class HttpReply(NamedTuple):
    """One complete HTTP answer."""

    code: int
    headers: HeaderList
    body: bytes | memoryview


def answered(answer: Answer, uid: bytes) -> HttpReply:
    """Return the HTTP answer for an answer of a processor."""
    headers = [
        *_arm_headers(answer.arm, answer.version, answer.status),
        (b"content-length", b"%d" % len(answer.body)),
        (REQUEST_ID, uid_text(uid).encode()),
    ]
    if answer.json_length is None:
        headers.append((b"content-type", JSON.encode()))
    else:
        headers.append((b"content-type", BINARY.encode()))
        headers.append((b"inference-header-content-length", b"%d" % answer.json_length))
    if answer.status is Status.OVERLOADED:
        headers.append((b"retry-after", b"1"))
    return HttpReply(BY_STATUS[answer.status], headers, answer.body)


def pending(uid: bytes, extra: Iterable[tuple[bytes, bytes]] = ()) -> HttpReply:
    """Return the 202 with the location of the future answer."""
    text = uid_text(uid)
    location = f"/v2/requests/{text}"
    body = orjson.dumps({"id": text, "status": "pending", "location": location})
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"location", location.encode()),
        (b"retry-after", b"%d" % PENDING_RETRY_S),
        (b"millrace-status", b"pending"),
        (REQUEST_ID, text.encode()),
        *extra,
    ]
    return HttpReply(202, headers, body)


@lru_cache(maxsize=1024)
def _arm_headers(arm: str, version: int, status: Status) -> HeaderList:
    return [
        (b"millrace-arm", arm.encode()),
        (b"millrace-version", b"%d" % version),
        (b"millrace-status", status.word.encode()),
    ]
