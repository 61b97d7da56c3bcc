"""Turns a queue client's message into the requests that are sent to models."""

from __future__ import annotations

from typing import NamedTuple

from broker.base import MESSAGE_LIMIT_BYTES
from broker.channels import Channels
from broker.messages import Delivery
from broker.protocol.header import ReplyTo, Request
from broker.support.compression import decompressed
from router.drawing.legs import rankers_of, shadow_of
from router.drawing.planner import ClientRequest, plan_request
from router.drawing.router import Router
from router.service.intake import read_headers, tenant_of
from router.state.view import View

HEADER_ROOM_BYTES = 64 * 1024


class PlannedRequest(NamedTuple):
    """The requests of one message: `request` is leg 0, with the client's address for the answer.

    If there are `rankers`, they are sent instead of `request`: one request for each ranker, leg 0 among them, with
    this router's address.
    """

    request: Request
    shadow: Request | None
    rankers: tuple[Request, ...]
    router: Router


def plan(
    delivery: Delivery, uid: bytes, now: int, *, endpoint: str, view: View, channels: Channels, answers: str
) -> PlannedRequest:
    """Plan the requests of a message; rankers will answer on the queue `answers`. Raises MillraceError."""
    message = decompressed(delivery.message, MESSAGE_LIMIT_BYTES - HEADER_ROOM_BYTES)
    headers = read_headers(message, channels)
    router, mask = view.resolve(endpoint)
    view.versions.check_servable(router.endpoint, mask)
    allowed_ms = router.endpoint.deadline * 1000
    if headers.timeout_ms is not None:
        allowed_ms = min(allowed_ms, headers.timeout_ms)
    unwanted = headers.reply is ReplyTo.RESULTS and router.endpoint.results == "none"
    client = ClientRequest(
        uid,
        now,
        int(allowed_ms * 1000),
        message.body,
        headers.json_length,
        key=headers.key,
        pin=headers.pin,
        trace=headers.trace,
        extra=headers.extra,
        tenant=tenant_of(message),
        correlation=message.correlation_id or "",
        reply=ReplyTo.NOWHERE if unwanted else headers.reply,
        reply_to=headers.reply_to,
    )
    request, drawn = plan_request(router, mask, client, view.members.check_key)
    rankers = rankers_of(request, drawn, answers) if drawn.merged else ()
    return PlannedRequest(request, shadow_of(request, drawn), rankers, router)
