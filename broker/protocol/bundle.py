"""Bundles: many requests or answers in one broker message, because a broker's cost is mostly per message.

`header.py` describes the framing. The body of a bundle is a sequence of pairs, with nothing between them: the ticket of
a request and its body, or the head of an answer and its body.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from broker.errors import InvalidRequest
from broker.messages import BINARY, JSON, Message
from broker.protocol.header import (
    Answer,
    BodyForm,
    Request,
    Route,
    pack_head,
    pack_route,
    pack_ticket,
    unpack_answer,
    unpack_head,
    unpack_route,
    unpack_ticket,
)

BUNDLE_LIMIT_BYTES = 256 * 1024


def single(queue: str, request: Request, *, delay_s: float = 0.0) -> Message:
    """Return a message with one request."""
    header = pack_head(BodyForm.SINGLE, 1, pack_route(request.route)) + pack_ticket(request, 0)
    kind = JSON if request.json_length is None else BINARY
    return Message(queue=queue, body=bytes(request.body), header=header, content_type=kind, delay_s=delay_s)


def bundle(queue: str, form: BodyForm, shared: bytes, parts: Sequence[bytes | memoryview], count: int) -> Message:
    """Return a message with `count` requests or answers; `parts` has a ticket, its body, the next ticket, and so on."""
    return Message(queue=queue, body=b"".join(parts), header=pack_head(form, count, shared), count=count)


def requests_in(message: Message) -> list[Request]:
    """Return the requests of a message; raises InvalidRequest if it is malformed."""
    form, count, shared, end = unpack_head(message.header)
    route = unpack_route(shared)
    try:
        if form is BodyForm.SINGLE:
            request, _ = unpack_ticket(route, memoryview(message.header), end, message.body)
            return [request]
        if form is BodyForm.BUNDLE:
            return _bundled(route, count, memoryview(message.body))
    except (struct.error, UnicodeDecodeError, ValueError) as exc:
        raise InvalidRequest(f"millrace bundle: {exc}") from exc
    raise InvalidRequest(f"millrace header: the body form is {form.name}: a message with requests was expected")


def answers_in(message: Message) -> list[Answer]:
    """Return the answers of a message from an answer queue; raises InvalidRequest if it is malformed."""
    form, count, _, _ = unpack_head(message.header)
    if form is not BodyForm.ANSWERS:
        raise InvalidRequest(f"millrace header: the body form is {form.name}: a message with answers was expected")
    data, at, answers = memoryview(message.body), 0, []
    try:
        for _ in range(count):
            answer, at = unpack_answer(data, at)
            answers.append(answer)
    except (struct.error, UnicodeDecodeError, ValueError) as exc:
        raise InvalidRequest(f"millrace bundle: {exc}") from exc
    return answers


def _bundled(route: Route, count: int, data: memoryview) -> list[Request]:
    if not count:
        raise ValueError("it has no requests")
    at, requests = 0, []
    for _ in range(count):
        request, at = unpack_ticket(route, data, at, None)
        requests.append(request)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left after the last of {count} requests")
    return requests
