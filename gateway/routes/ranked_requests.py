"""Requests that several rankers answer together: all are asked, and the client sees one list made of theirs."""

from __future__ import annotations

import asyncio

from broker.errors import InvalidRequest, QueueFull
from broker.protocol.header import Answer, Request
from gateway.core.core import Core
from gateway.core.sending import RequestSender
from gateway.routes.preferences import Preferences
from router.drawing.legs import rankers_of
from router.drawing.plan import Plan
from router.drawing.router import Router
from router.ranking.fan_in import AnswersByArm
from router.ranking.merge_log import MergeLog

RECORD_PATIENCE_S = 60.0


def check_waits(router: Router, pin: str | None, wishes: Preferences) -> None:
    """Raise InvalidRequest if an endpoint that makes one list of several is to answer later, or only once.

    By the declaration, not by who is ready now: the same request is not to be refused on some days.
    """
    if wishes.stored and pin is None and router.merging is not None:
        raise InvalidRequest(
            f"endpoint {router.endpoint.endpoint} makes one list of several rankings while its client waits: "
            "send the request without Prefer and Idempotency-Key, or pin an arm"
        )


class RankedSender:
    """Sends the requests of a merged plan, makes one answer of theirs, and writes down who placed what."""

    def __init__(self, core: Core, sending: RequestSender) -> None:
        self._pending = core.pending
        self._sending = sending
        self._records = MergeLog(core.broker, lost=core.metrics.lost_merge, patience_s=RECORD_PATIENCE_S)

    def ask(self, router: Router, request: Request, plan: Plan, allowed_s: float) -> asyncio.Future[AnswersByArm]:
        """Send a request to all its rankers; returns the future of what they say. Raises QueueFull."""
        rankers = rankers_of(request, plan, self._pending.queue)
        wait_s = allowed_s if router.merging is None else router.merging.wait_s
        try:
            heard = self._pending.gather(
                request.uid, [leg.arm for leg in plan.legs], wait_s=wait_s, allowed_s=allowed_s
            )
        except QueueFull as exc:
            self._sending.refuse(rankers, exc)
            raise
        for ranker in rankers:
            self._sending.put(ranker)
        return heard

    def answer(self, router: Router, request: Request, heard: AnswersByArm) -> Answer:
        """Return the one answer. Its record is on its way; raises what the rankers, or we, say went wrong."""
        merged = router.merge(request, heard)
        if merged.record is not None:
            self._records.put(request.route.endpoint, merged.record)
        return merged.answer

    async def drain(self) -> None:
        """Wait until all that was written down is safe."""
        await self._records.drain()
