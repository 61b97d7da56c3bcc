"""The router process for clients of the queue: it takes `requests.<endpoint>` and forwards to the models' queues.

A source is acked once the forwarded request is safe. Requests wait here, not in the models' queues: those stay short.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import NO_LIMITS, Limits
from broker.delivery.clocks import CLOCKS
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.errors import TryAgain
from broker.records.agreement import Agreement, write_agreement
from broker.support.backoff import Backoff
from broker.support.tasks import Tasks, wait_for_event
from router.service.endpoint import EndpointService
from router.service.metrics import RouterMetrics
from router.service.ranked_requests import RankerAnswers
from router.state.checkpoint_bootstrap import CheckpointBootstrap
from router.state.members import keep_comparing
from router.state.view import View

logger = logging.getLogger(__name__)

CHECK_S = 0.25
DECLARE_AT_ONCE = 8
PAUSE_FIRST_S = 0.25
PAUSE_LONGEST_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How a router service runs."""

    instance: str
    metrics_port: int = 0
    limits: Limits = NO_LIMITS  # of the queues that clients publish to
    agreement: Agreement | None = None  # with other members; None compares nothing


async def run(
    broker: Broker, settings: RouterSettings, key: bytes, registry: CollectorRegistry, stop: asyncio.Event
) -> None:
    """Serve every endpoint that is declared or announced, until `stop` is set."""
    view = View(key)
    view.members.introduce(settings.instance, settings.agreement)
    metrics = RouterMetrics(registry)
    service = RouterService(broker, view, settings, metrics)
    metrics.watch(service.problems)
    heartbeat = Heartbeat(
        broker,
        instance=settings.instance,
        part="router",
        metrics_port=settings.metrics_port,
        troubles=lambda: [f"endpoint {endpoint}: {reason}" for endpoint, reason in sorted(service.problems().items())],
    )
    member = Membership(broker, heartbeat)
    await member.follow(declared=view.fold_declared, status=view.fold_status)
    await member.caught_up()
    await CLOCKS.measured()
    await member.announce("ready", full=write_agreement(settings.agreement) if settings.agreement else None)
    member.spawn(keep_comparing(view.members, heartbeat, registry), "agreement")
    member.spawn(CheckpointBootstrap(broker, view).run(), "checkpoint bootstrap")
    while not stop.is_set():
        service.serve_new()
        await wait_for_event(stop, CHECK_S)
    await service.close()
    await member.leave()


class RouterService:
    """One `EndpointService` for each endpoint.

    Endpoints whose queues exist are served at once; missing queues are declared in the background, some at a time. An
    endpoint whose queue the broker refuses is reported and tried again; it delays no other endpoint.
    """

    def __init__(self, broker: Broker, view: View, settings: RouterSettings, metrics: RouterMetrics) -> None:
        self._broker = broker
        self._view = view
        self._limits = settings.limits
        self._tasks = Tasks()
        self._declaring = Tasks()
        self._at_once = asyncio.Semaphore(DECLARE_AT_ONCE)
        self._known: set[str] = set()
        self._serving: dict[str, EndpointService] = {}
        self._refused: dict[str, str] = {}
        self._metrics = metrics
        self._answers = RankerAnswers(broker, settings.instance)
        self._instance = settings.instance

    def serve_new(self) -> None:
        """Start to serve endpoints that are new."""
        new = [endpoint for endpoint in self._view.endpoints() if endpoint not in self._known]
        if new:
            self._known.update(new)
            self._declaring.spawn(self._begin(new), f"{len(new)} endpoints")

    def problems(self) -> dict[str, str]:
        """Return the reason by endpoint for those whose queue clients cannot be served now."""
        found = dict(self._refused)
        for channel, reason in self._broker.upkeep.troubles.items():
            endpoint = channel.removeprefix(self._broker.channels.requests(""))
            if endpoint in self._known:
                found[endpoint] = reason
        return found

    async def close(self) -> None:
        """Take no more, and finish the taken requests."""
        await self._declaring.cancel()
        await asyncio.gather(*[service.stop() for service in self._serving.values()])
        await self._tasks.drain()
        await self._answers.close()

    async def _begin(self, endpoints: Sequence[str]) -> None:
        """Serve the endpoints whose queue exists, and declare the queues of all."""
        queues = {self._broker.channels.requests(endpoint): endpoint for endpoint in endpoints}
        try:
            gone = {queues[queue] for queue in await self._broker.missing(list(queues))}
        except TryAgain:
            gone = set(endpoints)
        for endpoint in endpoints:
            if endpoint not in gone:
                self._serve(endpoint)
            self._declaring.spawn(self._declare(endpoint), f"queues of {endpoint}")

    def _serve(self, endpoint: str) -> None:
        if endpoint in self._serving:
            return
        service = self._serving[endpoint] = EndpointService(
            self._broker, self._view, endpoint, self._instance, self._metrics, self._answers
        )
        self._tasks.spawn(service.run(), f"endpoint-{endpoint}")

    async def _declare(self, endpoint: str) -> None:
        """Declare an endpoint's queues, and serve it; repeat that until the broker allows it.

        The queue is consumed from only after that: RabbitMQ 3.10 closes the connection of a consumer that subscribes
        to a quorum queue while it is being created.
        """
        channels, backoff = self._broker.channels, Backoff(first_s=PAUSE_FIRST_S, longest_s=PAUSE_LONGEST_S)
        while endpoint in self._view.endpoints():
            try:
                async with self._at_once:
                    await self._broker.declare(channels.requests(endpoint), self._limits)
                    await self._broker.declare(channels.results(endpoint))
            except TryAgain as exc:
                if self._refused.get(endpoint) != str(exc):
                    logger.error("endpoint %s: clients of its queue are not served: %s; trying again", endpoint, exc)  # noqa: TRY400 - an operator can repair this; a traceback would hide the message
                self._refused[endpoint] = str(exc)
            else:
                self._serve(endpoint)
                if self._refused.pop(endpoint, None):
                    logger.warning("endpoint %s: clients of its queue are served", endpoint)
                return
            await asyncio.sleep(backoff.next_s())
        self._refused.pop(endpoint, None)  # withdrawn meanwhile; declared again, it is new
        self._known.discard(endpoint)
