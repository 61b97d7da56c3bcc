"""Faults at random under steady load, by a seed: every request is answered, once, with its own number.

    make chaos KILLS=200 SEED=1                     over all three brokers
    python -m tests.kill.chaos --kills 20 --seed 1 --broker kafka

Replicas, the router, the gateway and the catalog get SIGKILL, SIGTERM or a pause of SIGSTOP, and a replica is frozen
for half a minute; RabbitMQ and Kafka are killed and started again, and the parts' connections to them are cut, held so
that neither side hears anything, or closed by RabbitMQ's management. Queues, while nothing is in them, and logs are
deleted, and an endpoint is declared whose queue the broker refuses.
Clients of the queue and HTTP clients ask all the while. Ends with one line, and status 1 unless nothing was lost,
twice or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker.base import Broker
from broker.protocol.ids import uid_of
from tests.kill.client import Answer, Client
from tests.kill.faults import PATIENCE_S, Faults, Step, schedule
from tests.kill.http_client import HttpClient
from tests.kill.installation import Installation, until
from tests.kill.models import STEADY
from tests.kill.rows import read_rows
from tests.proxy import Proxy
from tests.servers import control_kafka, control_rabbitmq, kafka_url, rabbitmq_url

EVERY_S = 0.2
AT_A_TIME = 40
PROGRESS = 200  # answers from the queue between two faults
HTTP_PROGRESS = 20  # and by HTTP
ATTEMPTS = 50  # the faults of this test are none of any request's
SETTLED_S = 10.0  # a new quorum queue that is killed at once can lose its leader
URLS: dict[str, Callable[[], str]] = {"sqlite": lambda: "", "rabbitmq": rabbitmq_url, "kafka": kafka_url}
CONTROLS: dict[str, Callable[..., None]] = {"rabbitmq": control_rabbitmq, "kafka": control_kafka}
HEARTBEATS = {"rabbitmq": "?heartbeat=5"}
KINDS = (
    "replica killed",
    "replica stopped",
    "replica paused",
    "router killed",
    "router stopped",
    "router paused",
    "gateway killed",
    "gateway stopped",
    "gateway paused",
    "catalog killed",
    "replica frozen",
    "queue vanished",
    "log vanished",
)
KINDS_OF_SERVER = ("broker killed", "link cut", "link held", "declaration refused")
KINDS_OF_RABBITMQ = ("connections closed",)


class Seen(Protocol):
    """What a client saw: of the queue, or of HTTP."""

    @property
    def sent(self) -> Collection[int]: ...
    @property
    def answers(self) -> Collection[int]: ...
    @property
    def lost(self) -> int: ...
    @property
    def twice(self) -> int: ...
    def wrong(self) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """One broker's share: what was done, and what the clients saw of it."""

    steps: Sequence[Step]
    queue: Client
    http: HttpClient
    redelivered: int

    @property
    def clients(self) -> tuple[Seen, Seen]:
        """Both clients, for what is counted in the same way."""
        return self.queue, self.http

    @property
    def wrong(self) -> list[Answer]:
        """Return the answers that are not what the model gives: a fault is no reason for another status, either."""
        firsts = [answers[0] for answers in self.queue.answers.values()]
        return [*self.queue.wrong(), *[answer for answer in firsts if answer.status != "ok"], *self.http.wrong()]

    @property
    def bad(self) -> bool:
        """Whether anything was lost, twice or wrong."""
        return any(client.lost or client.twice for client in self.clients) or bool(self.wrong)


class Chaos:
    """One installation, its clients, one schedule."""

    def __init__(self, faults: Faults, queue: Client, http: HttpClient) -> None:
        self._faults = faults
        self._queue = queue
        self._http = http
        self._sending = True
        self._may_send = asyncio.Event()
        self._may_send.set()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Have nothing on its way: both clients wait, with all their answers."""
        self._may_send.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(self._queue.all_answered(), self._http.pause())
            yield
        finally:
            self._may_send.set()
            self._http.go_on()

    async def run(self, steps: Iterable[Step], settled_s: float) -> None:
        """Send all the while, do what the schedule says, and wait for every answer."""
        sending = asyncio.create_task(self._send())
        await asyncio.sleep(settled_s)
        after = "the start"
        for step in steps:
            await self._calm(after)
            await asyncio.sleep(step.calm_s)
            await self._faults.do(step, self.quiet)
            after = str(step)
        self._sending = False
        await sending
        await self._queue.all_answered()
        await self._http.finish()
        await self._faults.count()

    async def _send(self) -> None:
        number = 0
        while self._sending:
            await self._may_send.wait()
            await self._queue.send(range(number, number + AT_A_TIME))
            number += AT_A_TIME
            await asyncio.sleep(EVERY_S)

    async def _calm(self, after: str) -> None:
        """Wait until things move again."""
        wanted, by_http = len(self._queue.answers) + PROGRESS, len(self._http.answers) + HTTP_PROGRESS
        try:
            await until(lambda: len(self._queue.answers) >= wanted and len(self._http.answers) >= by_http, PATIENCE_S)
        except TimeoutError:
            raise AssertionError(
                f"{PATIENCE_S:.0f} s after {after}, {len(self._queue.answers)} of {wanted} answers from the queue, and"
                f" {len(self._http.answers)} of {by_http} by HTTP: {self._http.tries}"
            ) from None


async def chaos(broker: str, kills: int, seed: int) -> Ended:
    """Run one broker's share; returns what was done, and what the clients saw."""
    kinds = KINDS + (KINDS_OF_SERVER if broker in CONTROLS else ())
    kinds += KINDS_OF_RABBITMQ if broker == "rabbitmq" else ()
    steps = schedule(kinds, kills, random.Random(f"{seed} {broker}"))  # noqa: S311 - a schedule is no secret
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
        async with _link(broker) as link, Installation(Path(folder), URLS[broker](), link.url if link else "") as it:
            await it.serve("steady", STEADY, "gateway", retry={"attempts": ATTEMPTS})
            faults = Faults(it, link, CONTROLS.get(broker))
            async with (
                _way_of_the_queue(it, broker) as way,
                Client(way, "steady") as queue,
                HttpClient(it.http_port, "steady") as http,
            ):
                await Chaos(faults, queue, http).run(steps, SETTLED_S if broker in CONTROLS else 0)
                await _find_withheld(it.broker, http)
                return Ended(steps, queue, http, faults.redelivered)


async def _find_withheld(broker: Broker, http: HttpClient) -> None:
    """Find what was accepted for later and computed, as its row says, and is not given to whoever asks."""
    if unanswered := await http.unanswered():
        rows = (await read_rows(broker, "steady", ())).first
        ends = {uid: rows.get((uid_of(uid), 0, 0)) for uid in unanswered}
        http.withheld.update(uid for uid, row in ends.items() if row is not None and row.status == "ok")


@asynccontextmanager
async def _link(broker: str) -> AsyncIterator[Proxy | None]:
    """Stand between a server and who uses the link; the embedded broker has none."""
    if broker not in CONTROLS:
        yield None
        return
    async with Proxy(URLS[broker]() + HEARTBEATS.get(broker, "")) as proxy:
        yield proxy


@asynccontextmanager
async def _way_of_the_queue(installation: Installation, broker: str) -> AsyncIterator[Broker]:
    """Return the broker as the client of the queue has it.

    On RabbitMQ it uses the link, too: what it publishes again with the same message_id is the same request. On Kafka
    that would be another request, with an id of its own.
    """
    if broker != "rabbitmq":
        yield installation.broker
        return
    async with installation.another_broker() as way:
        yield way


def line(seed: int, kills: int, ended: Iterable[Ended]) -> str:
    """Return the one line that says it all; `twice` is after dedupe by message_id."""
    ended = list(ended)
    clients = [client for one in ended for client in one.clients]
    return (
        f"chaos: seed {seed} kills {kills} sent {sum(len(client.sent) for client in clients)}"
        f" answered {sum(len(client.answers) for client in clients)} lost {sum(client.lost for client in clients)}"
        f" twice {sum(client.twice for client in clients)} wrong {sum(len(one.wrong) for one in ended)}"
        f" redelivered {sum(one.redelivered for one in ended)}"
    )


def _details(one: Ended) -> str:
    """Return what a person wants to know of a share: the faults, the tries by HTTP, the first wrong answers."""
    wrong = [f"wrong: {answer}\n" for answer in one.wrong[:10]]
    return f"{', '.join(map(str, one.steps))}\nby HTTP: {dict(one.http.tries)}\n" + "".join(wrong)


def main() -> None:
    """Read the options, run every broker's share, say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all, over the brokers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", choices=list(URLS), action="append", help="one of them; may be given again")
    options = parser.parse_args()
    brokers = options.broker or list(URLS)
    ended = []
    for at, broker in enumerate(brokers):
        share = options.kills // len(brokers) + (at < options.kills % len(brokers))
        with contextlib.redirect_stdout(sys.stderr):
            ended.append(asyncio.run(chaos(broker, share, options.seed)))
        sys.stderr.write(_details(ended[-1]))
        sys.stdout.write(line(options.seed, share, ended[-1:]).replace("chaos:", f"{broker}:") + "\n")
        sys.stdout.flush()
    sys.stdout.write(line(options.seed, options.kills, ended) + "\n")
    sys.exit(1 if any(one.bad for one in ended) else 0)


if __name__ == "__main__":
    main()
