"""One endpoint's requests from clients of the queue: taken, planned, and forwarded to the queues of its arms.

A source is acked when what was forwarded is safe. Each arm has a line of its own, in bounded number: while an arm's
queue moves, a full line makes the endpoint wait in `requests.<endpoint>`; an arm that is stuck holds up no other one,
and what is drawn for it beyond its line ends as `overloaded`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

from broker.base import Broker
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.prediction_log import DOOR_LINGER_S, PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import (
    Cancelled,
    Expired,
    Failed,
    InvalidRequest,
    MillraceError,
    QueueFull,
    TooLarge,
    TryAgain,
)
from broker.messages import UNKNOWN, Delivery, Outcome, Reason
from broker.protocol.answers import error_body
from broker.protocol.bundle import BUNDLE_LIMIT_BYTES, bundle
from broker.protocol.header import BY_WORD, BodyForm, ReplyTo, Request, Route, pack_route, pack_ticket
from broker.protocol.ids import is_over, now_us
from broker.records.events import EndedRequests
from broker.support.tasks import Tasks
from router.service.intake import ADDRESS_CHARACTERS, identity, where_to_answer
from router.service.line import ModelLine
from router.service.metrics import RouterMetrics
from router.service.planning import PlannedRequest, plan
from router.service.ranked_requests import RankedRequests, RankerAnswers, SourceDelivery
from router.service.shadows import ShadowSender
from router.service.taken import TakenRequest
from router.state.view import View

log = logging.getLogger(__name__)

TAKE = 256
PREFETCH = 1024
LINE_LEAST = 8
PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0
STUCK_LOOK_S = 0.1
PER_REQUEST = 2  # what a refused request waits for: its answer and its row


class EndpointService:
    """Takes one endpoint's requests and forwards them by its router's plan."""

    def __init__(
        self, broker: Broker, view: View, endpoint: str, instance: str, metrics: RouterMetrics, answers: RankerAnswers
    ) -> None:
        self._broker = broker
        self._view = view
        self._endpoint = endpoint
        self._consumer = broker.consume(broker.channels.requests(endpoint), PREFETCH)
        self._settling = AckTracker(broker)
        self._answering = ReplySender(broker, dropped=metrics.dropped)
        self._rows = PredictionLogWriter(broker, {}, source=f"/millrace/{instance}", linger_s=DOOR_LINGER_S)
        self._shadows = ShadowSender(broker, self._rows, view.max_batch)
        self._answers = answers
        self._lists = RankedRequests(
            broker,
            answers,
            self._answering,
            self._settling,
            self._rows,
            max_batch=view.max_batch,
            lost=metrics.lost_merge,
        )
        self._tasks = Tasks()
        self._lines: dict[str, ModelLine] = {}
        self._moved = asyncio.Event()
        self._stopping = False

    @property
    def trouble(self) -> str:
        """Return why nothing can be taken now; empty while it can."""
        return self._consumer.trouble

    async def run(self) -> None:
        """Forward until stopped; then wait until all that was taken is safe elsewhere."""
        while deliveries := await self._consumer.take(TAKE):
            groups, to_rankers = self._group(deliveries)
            if to_rankers:
                self._tasks.spawn(self._lists.ask(to_rankers), "ask rankers")
            for (queue, route), items in groups.items():
                self._queue_up(queue, route, items)
            await self._until_room()
        await self._tasks.drain()
        for line in self._lines.values():
            await line.drain()
        await self._lists.drain()
        await self._shadows.drain()
        await self._answering.outbox.drain()
        await self._rows.drain()
        await self._settling.drain()

    async def stop(self) -> None:
        """Take no more."""
        self._stopping = True
        self._moved.set()
        for line in self._lines.values():
            line.stop()
        self._lists.stop()
        await self._consumer.stop()

    def _group(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[dict[tuple[str, Route], list[TakenRequest]], list[SourceDelivery]]:
        """Return what goes to one queue together, and what goes to rankers; refuse the rest."""
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
                self._refuse(delivery, uid, exc, now)
                continue
            except Exception:  # whatever a client's message does to us, it must not end the router for the others
                log.exception("endpoint %s: a message could not be read", self._endpoint)
                self._refuse(
                    delivery, uid, InvalidRequest("the message cannot be read: its headers or ids are broken"), now
                )
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
            answers=self._answers.queue,
        )

    def _refuse(self, delivery: Delivery, uid: bytes, error: MillraceError, now: int) -> None:
        """Answer a request that goes nowhere, and write its row."""
        reply, reply_to = where_to_answer(delivery.message, self._broker.channels)
        declared = self._view.declaration(self._endpoint)
        if reply is ReplyTo.RESULTS and declared is not None and declared.results == "none":
            reply = ReplyTo.NOWHERE
        route = Route(endpoint=self._endpoint, arm="", model="", version=0, reply=reply, reply_to=reply_to)
        correlation = (delivery.message.correlation_id or "")[:ADDRESS_CHARACTERS]
        request = Request(route, uid, now, 0, 0.0, None, 0, "", correlation, "", b"", b"")
        self._end(request, delivery, error)

    def _end_all(self, items: Sequence[TakenRequest], error: MillraceError) -> None:
        for delivery, request, _, _ in items:
            self._end(request, delivery, error)
        self._shadows.drop(
            [item.shadow for item in items if item.shadow], Cancelled("the request that it shadows was not forwarded")
        )

    def _end(self, request: Request, delivery: Delivery, error: MillraceError) -> None:
        hold = self._settling.hold(delivery, PER_REQUEST)
        status = BY_WORD[error.status]
        self._answering.answer_one(request, status, error_body(str(error)), hold, 0)
        ended = EndedRequests(
            requests=[request],
            rows=[1],
            taken_us=[request.accepted_us],
            status=status,
            error=str(error),
            published_us=now_us(),
        )
        self._rows.add(self._endpoint, ended, holds=[hold])

    # -- the lines before the arms' queues

    def _queue_up(self, queue: str, route: Route, items: list[TakenRequest]) -> None:
        """Put requests into the line of their arm; those for which a stuck arm has no room end at once."""
        line = self._lines.get(queue) or self._begin_line(queue)
        room = max(0, self._line_limit() - line.held) if self._has_others() and line.is_stuck else len(items)
        for part in _parts(items[:room], self._view.max_batch(route.model, route.version)):
            line.put(route, part)
        if items[room:]:
            self._end_all(
                items[room:],
                QueueFull(
                    f"{line.held} requests wait for {route.model}@{route.version} already, and none gets through"
                ),
            )

    def _begin_line(self, queue: str) -> ModelLine:
        async def forward(route: Route, items: list[TakenRequest]) -> int:
            return await self._forward(queue, route, items)

        line = self._lines[queue] = ModelLine(
            self._broker, queue, forward=forward, in_time=self._in_time, moved=self._moved.set
        )
        return line

    async def _until_room(self) -> None:
        """Wait while an arm that moves has a full line: what waits longer waits in the endpoint's queue."""
        while not self._stopping and any(self._holds_up(line) for line in self._lines.values()):
            self._moved.clear()
            try:
                async with asyncio.timeout(STUCK_LOOK_S):
                    await self._moved.wait()
            except TimeoutError:
                continue

    def _holds_up(self, line: ModelLine) -> bool:
        return line.held >= self._line_limit() and not (line.is_stuck and self._has_others())

    def _line_limit(self) -> int:
        """Return how many requests a line may hold: all lines together hold half of what may be taken."""
        return max(LINE_LEAST, PREFETCH // 2 // self._arms())

    def _has_others(self) -> bool:
        return self._arms() > 1

    def _arms(self) -> int:
        declared = self._view.declaration(self._endpoint)
        return len(declared.arms) if declared is not None else 1

    def _in_time(self, items: list[TakenRequest]) -> list[TakenRequest]:
        """End the requests whose time was over before their model's queue had room, and return the others."""
        now = now_us()
        late = [item for item in items if is_over(item.request.deadline_us, now)]
        if not late:
            return items
        self._end_all(late, Expired("its model's queue had no room for as long as was allowed"))
        return [item for item in items if not is_over(item.request.deadline_us, now)]

    # -- into an arm's queue

    async def _forward(self, queue: str, route: Route, items: list[TakenRequest]) -> int:
        """Forward a bundle, and return how many requests got there.

        An error that nobody foresaw ends its requests as `failed`, never the router.
        """
        try:
            return await self._until_safe(queue, route, items)
        except Exception:  # one endpoint's declaration or one request must not end the router for all others
            log.exception("endpoint %s: %d requests could not be forwarded to %s", self._endpoint, len(items), queue)
            self._end_all(items, Failed(f"the router could not forward it to {route.model}@{route.version}"))
            return 0

    async def _until_safe(self, queue: str, route: Route, items: list[TakenRequest]) -> int:
        """Publish a bundle until it is safe, then ack its sources; requests that wait too long are told so."""
        pause_s = PAUSE_FIRST_S
        while items:
            outcome = await self._attempt(queue, route, items)
            if outcome.safe:
                self._shadows.put([item.shadow for item in items if item.shadow])
                return len(items)
            if outcome.reason is Reason.TOO_LARGE:
                for item in items:
                    self._end_all([item], TooLarge(f"{len(item.request.body)} bytes are more than the broker takes"))
                break
            if self._stopping:  # unacked sources come back to the next router
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_LONGEST_S)
            now = now_us()
            self._end_all(
                [item for item in items if is_over(item.request.deadline_us, now)],
                Expired(f"its model's queue took nothing for as long as was allowed ({outcome})"),
            )
            # In place: the caller ends what is left.
            items[:] = [item for item in items if not is_over(item.request.deadline_us, now)]
        return 0

    async def _attempt(self, queue: str, route: Route, items: Sequence[TakenRequest]) -> Outcome:
        parts: list[bytes | memoryview] = []
        for item in items:
            parts.append(item.ticket)
            parts.append(item.request.body)
        message = bundle(queue, BodyForm.BUNDLE, pack_route(route), parts, len(items))
        try:
            return (await self._broker.forward([item.delivery for item in items], [message]))[0]
        except TryAgain:
            return UNKNOWN


def _parts(items: Sequence[TakenRequest], limit: int) -> Iterator[list[TakenRequest]]:
    """Cut items into bundles: at most `limit` requests, and no more bytes than a bundle should have."""
    part: list[TakenRequest] = []
    size = 0
    for item in items:
        length = len(item.request.body)
        if part and (len(part) >= limit or size + length > BUNDLE_LIMIT_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part
