"""The router for clients of the queue: it takes `requests.<endpoint>`, decides, and forwards to the model's queue.

A source is acked when what was forwarded is safe. Waiting happens here, not in the model's queue: that is kept short.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from broker.agreement import Agreement, write_agreement
from broker.announcer import Announcer
from broker.answering import Answering
from broker.answers import error_body
from broker.base import Broker, Since
from broker.bundle import BUNDLE_LIMIT_BYTES, bundle
from broker.errors import Cancelled, Expired, Failed, InvalidRequest, MillraceError, TooLarge, TryAgain
from broker.events import Ended
from broker.following import Following
from broker.header import BY_WORD, Form, Reply, Request, Route, pack_route, pack_ticket
from broker.ids import now_us
from broker.messages import UNKNOWN, Delivery, Outcome, Reason
from broker.rows import DOOR_LINGER_S, Rows
from broker.settling import Settling
from broker.status import FULL_EVERY_S
from broker.tasks import Tasks
from router.admission import Admission
from router.intake import ADDRESS_CHARACTERS, identity, where_to_answer
from router.members import keep_comparing
from router.merged import Lists, RankerAnswers, Source
from router.metrics import RouterMetrics
from router.planning import Planned, plan
from router.shadows import Shadows
from router.stand_in import StandIn
from router.view import View

log = logging.getLogger(__name__)

TAKE = 256
PREFETCH = 1024
LOOK_S = 0.25
PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0
PER_REQUEST = 2  # what a refused request waits for: its answer and its row


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How a router service runs."""

    instance: str
    metrics_port: int = 0
    agreement: Agreement | None = None  # with other members; None compares nothing


async def run(
    broker: Broker, settings: RouterSettings, key: bytes, registry: CollectorRegistry, stop: asyncio.Event
) -> None:
    """Serve every endpoint that is declared or announced, until `stop` is set."""
    view, tasks = View(key), Tasks()
    view.members.introduce(settings.instance, settings.agreement)
    start = Since(now_us() - int(2 * FULL_EVERY_S * 1e6))
    await broker.declare(broker.channels.declared)
    await broker.declare(broker.channels.status)
    declared = Following(broker, broker.channels.declared, 0, view.fold_declared)
    status = Following(broker, broker.channels.status, start, view.fold_status)
    tasks.spawn(declared.run(), "declared")
    tasks.spawn(status.run(), "status")
    announcer = Announcer(broker, instance=settings.instance, part="router", metrics_port=settings.metrics_port)
    await declared.caught_up.wait()
    await status.caught_up.wait()
    await announcer.say("ready", full=write_agreement(settings.agreement) if settings.agreement else None)
    tasks.spawn(announcer.beat(), "heartbeat")
    tasks.spawn(keep_comparing(view.members, announcer, registry), "agreement")
    tasks.spawn(StandIn(broker, view).run(), "stand-in")
    service = Service(broker, view, settings, RouterMetrics(registry))
    while not stop.is_set():
        await service.look()
        try:
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        except TimeoutError:
            continue
    await service.close()
    await announcer.say("stopped")
    await tasks.cancel()


class Service:
    """One consumer for each endpoint."""

    def __init__(self, broker: Broker, view: View, settings: RouterSettings, metrics: RouterMetrics) -> None:
        self._broker = broker
        self._view = view
        self._tasks = Tasks()
        self._serving: dict[str, EndpointService] = {}
        self._metrics = metrics
        self._answers = RankerAnswers(broker, settings.instance)
        self._instance = settings.instance

    async def look(self) -> None:
        """Start to serve endpoints that are new."""
        for endpoint in self._view.endpoints():
            if endpoint not in self._serving:
                await self._broker.declare(self._broker.channels.requests(endpoint))
                await self._broker.declare(self._broker.channels.results(endpoint))
                service = self._serving[endpoint] = EndpointService(
                    self._broker, self._view, endpoint, self._instance, self._metrics, self._answers
                )
                self._tasks.spawn(service.run(), f"endpoint-{endpoint}")

    async def close(self) -> None:
        """Take no more, finish what is held."""
        await asyncio.gather(*[service.stop() for service in self._serving.values()])
        await self._tasks.drain()
        await self._answers.close()


class Taken(NamedTuple):
    """A client's message, the request that it became, and its ticket, written while it can still be refused."""

    delivery: Delivery
    request: Request
    ticket: bytes
    shadow: Request | None


class EndpointService:
    """Takes one endpoint's requests and forwards them by its router's plan."""

    def __init__(
        self, broker: Broker, view: View, endpoint: str, instance: str, metrics: RouterMetrics, answers: RankerAnswers
    ) -> None:
        self._broker = broker
        self._view = view
        self._endpoint = endpoint
        self._consumer = broker.consume(broker.channels.requests(endpoint), PREFETCH)
        self._settling = Settling(broker)
        self._answering = Answering(broker, dropped=metrics.dropped)
        self._rows = Rows(broker, {}, source=f"/millrace/{instance}", linger_s=DOOR_LINGER_S)
        self._shadows = Shadows(broker, self._rows, view.max_batch)
        self._answers = answers
        self._lists = Lists(
            broker, answers, self._answering, self._settling, self._rows, max_batch=view.max_batch,
            lost=metrics.lost_merge,
        )  # fmt: skip
        self._tasks = Tasks()
        self._admissions: defaultdict[str, Admission] = defaultdict(Admission)
        self._stopping = False

    async def run(self) -> None:
        """Forward until stopped; then wait until all that was taken is safe elsewhere."""
        while deliveries := await self._consumer.take(TAKE):
            groups, to_rankers = self._group(deliveries)
            if to_rankers:
                self._tasks.spawn(self._lists.ask(to_rankers), "ask rankers")
            for (queue, route), items in groups.items():
                for part in _parts(items, self._view.max_batch(route.model, route.version)):
                    await self._admit(queue, len(part))
                    self._tasks.spawn(self._forward(queue, route, part), "forward")
        await self._tasks.drain()
        await self._lists.drain()
        await self._shadows.drain()
        await self._answering.outbox.drain()
        await self._rows.drain()
        await self._settling.drain()

    async def stop(self) -> None:
        """Take no more."""
        self._stopping = True
        self._lists.stop()
        await self._consumer.stop()

    def _group(self, deliveries: Sequence[Delivery]) -> tuple[dict[tuple[str, Route], list[Taken]], list[Source]]:
        """Return what goes to one queue together, and what goes to rankers; refuse the rest."""
        groups: defaultdict[tuple[str, Route], list[Taken]] = defaultdict(list)
        to_rankers: list[Source] = []
        now = now_us()
        for delivery in deliveries:
            uid = identity(self._endpoint, delivery, self._broker.origin(delivery), now)
            try:
                planned = self._plan(delivery, uid, now)
                request, shadow = planned.request, planned.shadow
                item = Taken(delivery, request, pack_ticket(request, len(request.body)), shadow)
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
                to_rankers.append(Source(delivery, planned))
            else:
                queue = self._broker.channels.inputs(request.route.model, request.route.version)
                groups[queue, request.route].append(item)
        return groups, to_rankers

    def _plan(self, delivery: Delivery, uid: bytes, now: int) -> Planned:
        return plan(
            delivery, uid, now, endpoint=self._endpoint, view=self._view, channels=self._broker.channels,
            answers=self._answers.queue,
        )  # fmt: skip

    def _refuse(self, delivery: Delivery, uid: bytes, error: MillraceError, now: int) -> None:
        """Answer a request that goes nowhere, and write its row."""
        reply, reply_to = where_to_answer(delivery.message, self._broker.channels)
        declared = self._view.declaration(self._endpoint)
        if reply is Reply.RESULTS and declared is not None and declared.results == "none":
            reply = Reply.NOWHERE
        route = Route(endpoint=self._endpoint, arm="", model="", version=0, reply=reply, reply_to=reply_to)
        correlation = (delivery.message.correlation_id or "")[:ADDRESS_CHARACTERS]
        request = Request(route, uid, now, 0, 0.0, None, 0, "", correlation, "", b"", b"")
        self._end(request, delivery, error)

    def _end_all(self, items: Sequence[Taken], error: MillraceError) -> None:
        for delivery, request, _, _ in items:
            self._end(request, delivery, error)
        self._shadows.drop(
            [item.shadow for item in items if item.shadow], Cancelled("the request that it shadows was not forwarded")
        )

    def _end(self, request: Request, delivery: Delivery, error: MillraceError) -> None:
        hold = self._settling.hold(delivery, PER_REQUEST)
        status = BY_WORD[error.status]
        self._answering.answer_one(request, status, error_body(str(error)), hold, 0)
        ended = Ended([request], [1], [request.accepted_us], status, str(error), published_us=now_us())
        self._rows.add(self._endpoint, None, ended, [hold], None, None)

    async def _admit(self, queue: str, requests: int) -> None:
        """Wait while a model's queue holds enough."""
        admission = self._admissions[queue]
        while admission.stale and not self._stopping:
            try:
                depth = await self._broker.depth(queue)
            except TryAgain:
                break
            admission.look(depth.requests)
            if admission.room > 0:
                break
            await asyncio.sleep(PAUSE_FIRST_S)
        admission.put(requests)

    async def _forward(self, queue: str, route: Route, items: list[Taken]) -> None:
        """Forward a bundle; an error that nobody foresaw ends its requests as `failed`, never the router."""
        try:
            await self._until_safe(queue, route, items)
        except Exception:  # one endpoint's declaration or one request must not end the router for all others
            log.exception("endpoint %s: %d requests could not be forwarded to %s", self._endpoint, len(items), queue)
            self._end_all(items, Failed(f"the router could not forward it to {route.model}@{route.version}"))

    async def _until_safe(self, queue: str, route: Route, items: list[Taken]) -> None:
        """Publish a bundle until it is safe, then ack its sources; who waits too long is told so."""
        pause_s = PAUSE_FIRST_S
        while items:
            outcome = await self._attempt(queue, route, items)
            if outcome.safe:
                self._shadows.put([item.shadow for item in items if item.shadow])
                return
            if outcome.reason is Reason.TOO_LARGE:
                for item in items:
                    self._end_all([item], TooLarge(f"{len(item.request.body)} bytes are more than the broker takes"))
                return
            if self._stopping:  # unacked sources come back to the next router
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_LONGEST_S)
            now = now_us()
            self._end_all(
                [item for item in items if item.request.deadline_us < now],
                Expired(f"its model's queue took nothing for as long as was allowed ({outcome})"),
            )
            items[:] = [item for item in items if item.request.deadline_us >= now]  # who calls sees what is left

    async def _attempt(self, queue: str, route: Route, items: Sequence[Taken]) -> Outcome:
        parts: list[bytes | memoryview] = []
        for item in items:
            parts.append(item.ticket)
            parts.append(item.request.body)
        message = bundle(queue, Form.BUNDLE, pack_route(route), parts, len(items))
        try:
            return (await self._broker.forward([item.delivery for item in items], [message]))[0]
        except TryAgain:
            return UNKNOWN


def _parts(items: Sequence[Taken], limit: int) -> Iterator[list[Taken]]:
    """Cut items into bundles: at most `limit` requests, and no more bytes than a bundle should have."""
    part: list[Taken] = []
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
