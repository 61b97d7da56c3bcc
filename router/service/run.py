"""The router for clients of the queue: it takes `requests.<endpoint>`, decides, and forwards to the model's queue.

A source is acked when what was forwarded is safe. Waiting happens here, not in the model's queue: that is kept short.
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
from broker.delivery.log_follower import LogFollower, follow_status
from broker.errors import TryAgain
from broker.records.agreement import Agreement, write_agreement
from broker.support.tasks import Tasks
from router.service.forwarding import EndpointService
from router.service.metrics import RouterMetrics
from router.service.ranked_requests import RankerAnswers
from router.state.checkpoint_bootstrap import CheckpointBootstrap
from router.state.members import keep_comparing
from router.state.view import View

log = logging.getLogger(__name__)

LOOK_S = 0.25
DECLARE_AT_ONCE = 8
PAUSE_FIRST_S = 0.25
PAUSE_LONGEST_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """How a router service runs."""

    instance: str
    metrics_port: int = 0
    limits: Limits = NO_LIMITS  # of the queues that clients write to
    agreement: Agreement | None = None  # with other members; None compares nothing


async def run(
    broker: Broker, settings: RouterSettings, key: bytes, registry: CollectorRegistry, stop: asyncio.Event
) -> None:
    """Serve every endpoint that is declared or announced, until `stop` is set."""
    view, tasks = View(key), Tasks()
    view.members.introduce(settings.instance, settings.agreement)
    await broker.declare(broker.channels.declared)
    await broker.declare(broker.channels.status)
    declared = LogFollower(broker, broker.channels.declared, 0, view.fold_declared)
    status = follow_status(broker, view.fold_status)
    tasks.spawn(declared.run(), "declared")
    tasks.spawn(status.run(), "status")
    metrics = RouterMetrics(registry)
    service = RouterService(broker, view, settings, metrics)
    metrics.watch(service.problems)
    announcer = Heartbeat(
        broker,
        instance=settings.instance,
        part="router",
        metrics_port=settings.metrics_port,
        troubles=lambda: [f"endpoint {endpoint}: {why}" for endpoint, why in sorted(service.problems().items())],
    )
    await declared.caught_up.wait()
    await status.caught_up.wait()
    await CLOCKS.measured()
    await announcer.set_state("ready", full=write_agreement(settings.agreement) if settings.agreement else None)
    tasks.spawn(announcer.beat(), "heartbeat")
    tasks.spawn(keep_comparing(view.members, announcer, registry), "agreement")
    tasks.spawn(CheckpointBootstrap(broker, view).run(), "stand-in")
    while not stop.is_set():
        service.look()
        try:
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        except TimeoutError:
            continue
    await service.close()
    await announcer.set_state("stopped")
    await tasks.cancel()


class RouterService:
    """One consumer for each endpoint.

    What is there is served at once; declarations go on beside it, some at a time. An endpoint whose queue the broker
    refuses is named, and tried again: it holds up no other one.
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

    def look(self) -> None:
        """Start to serve endpoints that are new."""
        new = [endpoint for endpoint in self._view.endpoints() if endpoint not in self._known]
        if new:
            self._known.update(new)
            self._declaring.spawn(self._begin(new), f"{len(new)} endpoints")

    def problems(self) -> dict[str, str]:
        """Return the endpoints whose queue clients cannot be served now, each with the reason."""
        found = dict(self._refused)
        for channel, why in self._broker.upkeep.troubles.items():
            endpoint = channel.removeprefix(self._broker.channels.requests(""))
            if endpoint in self._known:
                found[endpoint] = why
        return found

    async def close(self) -> None:
        """Take no more, finish what is held."""
        await self._declaring.cancel()
        await asyncio.gather(*[service.stop() for service in self._serving.values()])
        await self._tasks.drain()
        await self._answers.close()

    async def _begin(self, endpoints: Sequence[str]) -> None:
        """Serve those whose queue is there, and declare the queues of all."""
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
        """Declare an endpoint's queues, and serve it; a broker that refuses is asked again for as long as it takes.

        Nobody subscribes before: RabbitMQ 3.10 ends the connection of who consumes from a quorum queue that is just
        being made.
        """
        channels, pause_s = self._broker.channels, PAUSE_FIRST_S
        while True:
            try:
                async with self._at_once:
                    await self._broker.declare(channels.requests(endpoint), self._limits)
                    await self._broker.declare(channels.results(endpoint))
            except TryAgain as exc:
                if self._refused.get(endpoint) != str(exc):
                    log.error("endpoint %s: clients of its queue are not served: %s; trying again", endpoint, exc)  # noqa: TRY400 - a person can mend this: a traceback would only hide it
                self._refused[endpoint] = str(exc)
            else:
                self._serve(endpoint)
                if self._refused.pop(endpoint, None):
                    log.warning("endpoint %s: clients of its queue are served", endpoint)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_LONGEST_S)
