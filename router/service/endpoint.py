"""One endpoint's requests from clients of the queue: taken, planned, and forwarded to the queues of its arms.

A source is acked once the forwarded request is safe. Each arm has a line of its own in front of its queue.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.base import Broker
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.prediction_log import DOOR_LINGER_S, PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import InvalidRequest, MillraceError
from broker.messages import Delivery
from broker.protocol.header import Route, pack_ticket
from broker.protocol.ids import now_us
from broker.support.tasks import Tasks
from router.service.bundle_forwarder import BundleForwarder
from router.service.intake import identity
from router.service.metrics import RouterMetrics
from router.service.model_lines import ModelLines
from router.service.planning import PlannedRequest, plan
from router.service.ranked_requests import STOP_S, RankedRequests, RankerAnswers, SourceDelivery
from router.service.refusals import Refusals
from router.service.shadows import SHADOWS_DRAIN_S, SHADOWS_LIMIT, ShadowSender
from router.service.taken_request import TakenRequest
from router.state.view import View

logger = logging.getLogger(__name__)

TAKE = 256
PREFETCH = 1024


class Drainable(Protocol):
    """A part that holds requests for a while."""

    async def drain(self) -> None:
        """Wait until nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLimits:
    """The number of shadows that are sent at once, and how long shadows and ranked requests are drained."""

    shadows: int = SHADOWS_LIMIT
    shadows_drain_s: float = SHADOWS_DRAIN_S
    ranked_stop_s: float = STOP_S


DEFAULT_LIMITS = EndpointLimits()
Groups = dict[tuple[str, Route], list[TakenRequest]]


class EndpointService:
    """Takes one endpoint's requests and forwards them by its router's plan."""

    def __init__(
        self,
        broker: Broker,
        view: View,
        endpoint: str,
        instance: str,
        metrics: RouterMetrics,
        answers: RankerAnswers,
        *,
        limits: EndpointLimits = DEFAULT_LIMITS,
    ) -> None:
        self._broker = broker
        self._view = view
        self._endpoint = endpoint
        self._answers_queue = answers.queue
        self._consumer = broker.consume(broker.channels.requests(endpoint), PREFETCH)
        acks, replies = AckTracker(broker), ReplySender(broker, dropped=metrics.dropped)
        rows = PredictionLogWriter(broker, {}, source=f"/millrace/{instance}", linger_s=DOOR_LINGER_S)
        max_batch = view.versions.max_batch
        shadows = ShadowSender(broker, rows, max_batch, limit=limits.shadows, drain_s=limits.shadows_drain_s)
        self._refusals = Refusals(broker, view, endpoint, acks=acks, replies=replies, rows=rows, shadows=shadows)
        forwarder = BundleForwarder(broker, endpoint, refusals=self._refusals, shadows=shadows)
        self._lines = ModelLines(
            broker, view, endpoint, limit=PREFETCH // 2, forwarder=forwarder, refusals=self._refusals
        )
        self._ranked = RankedRequests(
            broker,
            answers,
            replies,
            acks,
            rows,
            max_batch=max_batch,
            lost=metrics.lost_merge,
            stop_s=limits.ranked_stop_s,
        )
        self._tasks = Tasks()
        self._drains: tuple[Drainable, ...] = (
            self._tasks,
            self._lines,
            self._ranked,
            shadows,
            replies.outbox,
            rows,
            acks,
        )
        """In the order of the data's way: sources are acked last."""

    @property
    def trouble(self) -> str:
        """Why nothing can be taken now; empty while requests can be taken."""
        return self._consumer.trouble

    async def run(self) -> None:
        """Forward until stopped; then wait until all taken requests are safe elsewhere."""
        while deliveries := await self._consumer.take(TAKE):
            groups, to_rankers = self._group(deliveries)
            if to_rankers:
                self._tasks.spawn(self._ranked.ask(to_rankers), "ask rankers")
            for (queue, route), items in groups.items():
                self._lines.put(queue, route, items)
            await self._lines.wait_for_room()
        for part in self._drains:
            await part.drain()

    async def stop(self) -> None:
        """Take no more."""
        self._lines.stop()
        self._ranked.stop()
        await self._consumer.stop()

    def _group(self, deliveries: Sequence[Delivery]) -> tuple[Groups, list[SourceDelivery]]:
        """Return the requests for each queue, and those for several rankers; refuse the others."""
        groups: defaultdict[tuple[str, Route], list[TakenRequest]] = defaultdict(list)
        to_rankers: list[SourceDelivery] = []
        now = now_us()
        for delivery in deliveries:
            uid = identity(self._endpoint, delivery, self._broker.origin(delivery), now)
            try:
                planned = self._plan(delivery, uid, now)
                request, shadow = planned.request, planned.shadow
                item = TakenRequest(delivery, request, pack_ticket(request, len(request.body)), shadow)
            except MillraceError as exc:
                self._refusals.refuse(delivery, uid, exc, now)
                continue
            except Exception:  # a client's message, however broken, must not end the router for the others
                logger.exception("endpoint %s: a message could not be read", self._endpoint)
                broken = InvalidRequest("the message cannot be read: its headers or ids are broken")
                self._refusals.refuse(delivery, uid, broken, now)
                continue
            if planned.rankers:
                to_rankers.append(SourceDelivery(delivery, planned))
            else:
                queue = self._broker.channels.inputs(request.route.model, request.route.version)
                groups[queue, request.route].append(item)
        return groups, to_rankers

    def _plan(self, delivery: Delivery, uid: bytes, now: int) -> PlannedRequest:
        return plan(
            delivery,
            uid,
            now,
            endpoint=self._endpoint,
            view=self._view,
            channels=self._broker.channels,
            answers=self._answers_queue,
        )
