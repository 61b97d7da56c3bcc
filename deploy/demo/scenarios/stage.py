"""The surroundings of a scenario: a running installation, its clients, and the learner's snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console

from broker.base import Broker
from deploy.demo.http_half import HttpHalf, http_half
from deploy.demo.progress import Steps
from deploy.demo.queue_half import QueueHalf, queue_half
from deploy.demo.rows import RowCheck
from deploy.demo.scenarios.claims import ScenarioClaim
from deploy.demo.scenarios.plot import Picture, draw
from deploy.demo.scenarios.snapshot_watcher import SnapshotWatcher, watching
from deploy.demo.serving import gateway_of
from deploy.demo.tally import Tally
from deploy.demo.wire import DemoReply, DemoRequest
from deploy.wiring import Installation

LEARNER_WITHIN_S = 30.0
AT_ONCE = 32  # unanswered requests of an endpoint


@dataclass(slots=True, kw_only=True)
class ScenarioStage:
    """Clients, checks and output of a scenario; `tick_s` is the real duration of a second of the event logs' clock."""

    console: Console
    steps: Steps
    broker: Broker
    by_http: HttpHalf
    by_queue: QueueHalf
    learner: SnapshotWatcher
    tick_s: float
    checks: dict[str, RowCheck] = field(default_factory=dict)
    slots: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    async def send(self, ask: DemoRequest) -> DemoReply | None:
        """Send a request: even numbers by HTTP, odd numbers through the queue.

        On a machine that is too slow for the pace, requests are sent later, so that no backlog grows.
        """
        async with self.slots.setdefault(ask.endpoint, asyncio.Semaphore(AT_ONCE)):
            return await (self.by_queue if ask.number % 2 else self.by_http).send(ask)

    async def event_seconds(self, number: float) -> None:
        """Wait for a number of seconds of the event logs' clock."""
        await asyncio.sleep(number * self.tick_s)

    async def wait_for_learner(self, endpoints: Iterable[str]) -> None:
        """Wait for the first snapshot of each endpoint, so that the picture begins with the first request."""
        for endpoint in endpoints:
            await self.learner.first(endpoint, LEARNER_WITHIN_S)

    async def read_rows(
        self, endpoint: str, legs: Mapping[str, int], feedback: int, advance: Callable[[int], None]
    ) -> None:
        """Read an endpoint's log until it has the legs of each request, and feedback for `feedback` requests."""
        check = self.checks[endpoint] = RowCheck(endpoint, legs, feedback)
        await check.read(self.broker, 0, advance)

    def exactly_once(self, endpoint: str, tally: Tally) -> list[str]:
        """List the contradictions to "every request has exactly one answer, a result, and one row for each leg"."""
        tally.take_all(self.repeats(endpoint))
        return tally.complaints() + self.checks[endpoint].complaints()

    def ended_once(self, endpoint: str, tally: Tally, statuses: Collection[str]) -> list[str]:
        """List the contradictions to the same claim for an endpoint whose replicas die; answers have one of `statuses`.

        Requests that a dead replica had not acked are computed again. Their answers and rows are repeated with the same
        message_id and uid, and the first one counts.
        """
        return tally.complaints(statuses) + self.checks[endpoint].complaints(may_repeat=True)

    def repeats(self, endpoint: str) -> list[DemoReply]:
        """The repeated answers of an endpoint."""
        return [reply for name, reply in self.by_queue.repeats if name == endpoint]

    def show(self, *pictures: Picture) -> None:
        """Print pictures, as wide as the terminal."""
        for picture in pictures:
            self.console.print()
            for line in draw(picture, self.console.width):
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def once_claim(sent: int, complaints: list[str], note: str = "") -> ScenarioClaim:
    """The claim that every scenario makes: each request has one answer and one row for each leg."""
    text = f"{sent:,} requests, half by HTTP, half through the queue: each was answered once, and has its rows once"
    return ScenarioClaim("; ".join([text + note, *complaints]), not complaints)


@asynccontextmanager
async def stage(
    console: Console, steps: Steps, installation: Installation, endpoints: Iterable[str]
) -> AsyncIterator[ScenarioStage]:
    """Open the broker, both clients and the watcher of snapshots, and yield the stage."""
    async with installation.broker() as broker, http_half(gateway_of(installation)) as by_http:
        for endpoint in endpoints:
            await broker.declare(broker.channels.events(endpoint))
        async with queue_half(broker, endpoints) as by_queue, watching(broker) as learner:
            yield ScenarioStage(
                console=console,
                steps=steps,
                broker=broker,
                by_http=by_http,
                by_queue=by_queue,
                learner=learner,
                tick_s=installation.settings.learner.tick,
            )
