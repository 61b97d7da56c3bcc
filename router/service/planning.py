"""Turns a queue client's message into the requests that are sent to models."""

from __future__ import annotations

from typing import NamedTuple

from broker.base import MESSAGE_LIMIT_BYTES
from broker.channels import Channels
from broker.messages import Delivery
from broker.protocol.header import ReplyTo, Request, Route
from broker.support.compression import decompressed
from router.drawing.feature_vectors import noted, vector_of
from router.drawing.keys import key_of
from router.drawing.legs import rankers_of, shadow_of
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
    key = key_of(router.endpoint.key, headers.key, message.body, headers.json_length)
    if key and headers.pin is None and router.draws_by_key:
        view.members.check_key()
    vector = None
    if router.features and headers.pin is None:
        vector = vector_of(router.features, message.body, headers.json_length)
    drawn = router.plan(uid, mask, key=key, pin=headers.pin, vector=vector)
    leg = drawn.legs[0]
    reply = ReplyTo.NOWHERE if headers.reply is ReplyTo.RESULTS and router.endpoint.results == "none" else headers.reply
    route = Route(
        endpoint=endpoint,
        arm=leg.arm,
        model=leg.model,
        version=leg.version,
        snapshot=drawn.snapshot,
        mask=drawn.mask,
        policy=drawn.policy,
        tenant=tenant_of(message),
        reply=reply,
        reply_to=headers.reply_to,
    )
    allowed_us = int(_allowed_ms(router, headers.timeout_ms) * 1000)
    request = Request(
        route=route,
        uid=uid,
        accepted_us=now,
        deadline_us=now + allowed_us,
        propensity=drawn.propensity,
        json_length=headers.json_length,
        key=key,
        correlation=message.correlation_id or "",
        trace=headers.trace,
        extra=headers.extra if vector is None else noted(headers.extra, vector),
        body=message.body,
    )
    rankers = rankers_of(request, drawn, answers) if drawn.merged else ()
    return PlannedRequest(request, shadow_of(request, drawn), rankers, router)


def _allowed_ms(router: Router, timeout_ms: int | None) -> float:
    longest = router.endpoint.deadline * 1000
    return longest if timeout_ms is None else min(longest, timeout_ms)
