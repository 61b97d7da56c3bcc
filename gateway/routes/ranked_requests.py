"""Requests to several rankers: each one answers, and the client gets one merged list."""

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


def check_waits(router: Router, pin: str | None, preferences: Preferences) -> None:
    """Raise InvalidRequest for a stored request to an endpoint that merges rankings.

    The declaration decides, not the arms that are ready now: the same request must always get the same reply.
    """
    if preferences.stored and pin is None and router.merging is not None:
        raise InvalidRequest(
            f"endpoint {router.endpoint.endpoint} merges several rankings while its client waits: "
            "send the request without Prefer and Idempotency-Key, or pin an arm"
        )


class RankedSender:
    """Asks the rankers of a plan, merges their answers into one, and writes the merge record."""

    def __init__(self, core: Core, sending: RequestSender) -> None:
        self._pending = core.pending
        self._sending = sending
        self._records = MergeLog(core.broker, lost=core.metrics.lost_merge, patience_s=RECORD_PATIENCE_S)

    def ask(self, router: Router, request: Request, plan: Plan, allowed_s: float) -> asyncio.Future[AnswersByArm]:
        """Send a request to all rankers and return the future of their answers. Raises QueueFull."""
        rankers = rankers_of(request, plan, self._pending.answers.name)
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
        """Return the merged answer and start to write its record. Raises the error if the answers cannot be merged."""
        merged = router.merge(request, heard)
        if merged.record is not None:
            self._records.put(request.route.endpoint, merged.record)
        return merged.answer

    async def drain(self) -> None:
        """Wait until every merge record is safe."""
        await self._records.drain()
