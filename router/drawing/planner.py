"""Plans a client's request, whether it came by HTTP or from a queue: its key, its features, its arms, its route."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from broker.protocol.header import ReplyTo, Request, Route
from router.drawing.feature_vectors import noted, vector_of
from router.drawing.keys import key_of
from router.drawing.plan import Leg, Plan
from router.drawing.router import Router


class ClientRequest(NamedTuple):
    """A request as its client sent it, with the destination of its answer."""

    uid: bytes
    accepted_us: int
    allowed_us: int
    body: bytes | memoryview
    json_length: int | None = None
    key: str = ""
    pin: str | None = None
    trace: str = ""
    extra: bytes = b""
    tenant: str = ""
    correlation: str = ""
    reply: ReplyTo = ReplyTo.GATEWAY
    reply_to: str = ""


def plan_request(
    router: Router, mask: int, client: ClientRequest, check_key: Callable[[], None]
) -> tuple[Request, Plan]:
    """Return the request for leg 0 and the plan it is part of, drawn among the arms in `mask`.

    `check_key` is called if the arm is drawn by the request's key; it raises Unavailable if this process could draw
    another arm than the others. Raises NotFound for an unknown pin, and InvalidRequest for a body or a key that cannot
    be read and for missing features.
    """
    key = key_of(router.endpoint.key, client.key, client.body, client.json_length)
    vector, extra = None, client.extra
    if client.pin is None:
        if key and router.draws_by_key:
            check_key()
        if router.features:
            vector = vector_of(router.features, client.body, client.json_length)
            extra = noted(extra, vector)
    plan = router.plan(client.uid, mask, key=key, pin=client.pin, vector=vector)
    request = Request(
        route=_route(
            router.endpoint.endpoint,
            plan.snapshot,
            plan.mask,
            plan.policy,
            plan.legs[0],
            client.tenant,
            client.reply,
            client.reply_to,
        ),
        uid=client.uid,
        accepted_us=client.accepted_us,
        deadline_us=client.accepted_us + client.allowed_us,
        propensity=plan.propensity,
        json_length=client.json_length,
        key=key,
        correlation=client.correlation,
        trace=client.trace,
        extra=extra,
        body=client.body,
    )
    return request, plan


@lru_cache(maxsize=4096)
def _route(
    endpoint: str, snapshot: int, mask: int, policy: str, leg: Leg, tenant: str, reply: ReplyTo, reply_to: str
) -> Route:
    return Route(
        endpoint=endpoint,
        arm=leg.arm,
        model=leg.model,
        version=leg.version,
        snapshot=snapshot,
        mask=mask,
        policy=policy,
        tenant=tenant,
        reply=reply,
        reply_to=reply_to,
        leg=leg.leg,
    )
