"""The requests of a plan with several legs: a shadow beside leg 0, or all rankers of a merged list."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from broker.protocol.header import ReplyTo, Request, Route
from router.drawing.plan import Leg, Plan


def shadow_of(request: Request, plan: Plan) -> Request | None:
    """Return the shadow of leg 0, which is computed and logged but never answers; None without one."""
    if plan.merged or len(plan.legs) == 1:
        return None
    leg = plan.legs[1]
    return request._replace(route=_route(request.route, leg, ReplyTo.NOWHERE, ""), propensity=0.0)


def rankers_of(request: Request, plan: Plan, queue: str) -> tuple[Request, ...]:
    """Return the requests of a merged plan, leg 0 included; all answer on `queue`, in bundles."""
    return tuple(
        request._replace(
            route=_route(request.route, leg, ReplyTo.GATEWAY, queue), propensity=0.0 if leg.leg else plan.propensity
        )
        for leg in plan.legs
    )


@lru_cache(maxsize=4096)
def _route(first: Route, leg: Leg, reply: ReplyTo, reply_to: str) -> Route:
    return replace(
        first, arm=leg.arm, model=leg.model, version=leg.version, leg=leg.leg, reply=reply, reply_to=reply_to
    )
