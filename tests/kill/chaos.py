"""Random faults under steady load, drawn from a seed: every request must be answered once, with its own number.

    make chaos KILLS=200 SEED=1                     over all three brokers
    python -m tests.kill.chaos --kills 20 --seed 1 --broker kafka

Replicas, the router, the gateway and the catalog get SIGKILL, SIGTERM or a SIGSTOP for some seconds, and a replica is
frozen for up to half a minute. RabbitMQ and Kafka are killed and started again. The parts' connections to them are cut,
held so that no bytes pass, or closed by RabbitMQ's management. Empty queues and logs are deleted, and an endpoint is
declared whose queue the broker refuses.
A queue client and an HTTP client send requests during all faults. The program prints one line, and exits with status 1
if a request was lost, answered twice or answered wrong.
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
from tests.kill.installation import Installation
from tests.kill.models import STEADY
from tests.kill.rows import read_rows
from tests.proxy import Proxy
from tests.servers import control_kafka, control_rabbitmq, kafka_url, rabbitmq_url
from tests.waiting import until

EVERY_S = 0.2
AT_A_TIME = 40
PROGRESS = 200  # answers from the queue between two faults
HTTP_PROGRESS = 20  # answers by HTTP between two faults
ATTEMPTS = 50  # so many that no request is buried because of this test's faults
SETTLED_S = 10.0  # a new quorum queue whose node is killed at once can lose its leader
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


class ClientResult(Protocol):
    """The counts of a client, by the queue or by HTTP."""

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
class ChaosResult:
    """The faults and the clients of the run on one broker."""

    steps: Sequence[Step]
    queue: Client
    http: HttpClient
    redelivered: int

    @property
    def clients(self) -> tuple[ClientResult, ClientResult]:
        """Both clients, for counts that both have."""
        return self.queue, self.http

    @property
    def wrong(self) -> list[Answer]:
        """The answers with a wrong value or another status than `ok`; a fault does not excuse another status."""
        firsts = [answers[0] for answers in self.queue.answers.values()]
        return [*self.queue.wrong(), *[answer for answer in firsts if answer.status != "ok"], *self.http.wrong()]

    @property
    def bad(self) -> bool:
        """True if a request was lost, answered twice or answered wrong."""
        return any(client.lost or client.twice for client in self.clients) or bool(self.wrong)


class Chaos:
    """Sends requests by both clients while the faults of a schedule happen."""

    def __init__(self, faults: Faults, queue: Client, http: HttpClient) -> None:
        self._faults = faults
        self._queue = queue
        self._http = http
        self._sending = True
        self._may_send = asyncio.Event()
        self._may_send.set()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Stop both clients and wait for all answers; within the block no request is unanswered."""
        self._may_send.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(self._queue.all_answered(), self._http.pause())
            yield
        finally:
            self._may_send.set()
            self._http.go_on()

    async def run(self, steps: Iterable[Step], settled_s: float) -> None:
        """Send requests, apply the faults one after the other, and wait for every answer."""
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
        """Wait until both clients have received new answers after a fault."""
        wanted, by_http = len(self._queue.answers) + PROGRESS, len(self._http.answers) + HTTP_PROGRESS
        try:
            await until(lambda: len(self._queue.answers) >= wanted and len(self._http.answers) >= by_http, PATIENCE_S)
        except TimeoutError:
            raise AssertionError(
                f"{PATIENCE_S:.0f} s after {after}, {len(self._queue.answers)} of {wanted} answers from the queue, and"
                f" {len(self._http.answers)} of {by_http} by HTTP: {self._http.tries}"
            ) from None


async def chaos(broker: str, kills: int, seed: int) -> ChaosResult:
    """Run a schedule of `kills` faults on one broker."""
    kinds = KINDS + (KINDS_OF_SERVER if broker in CONTROLS else ())
    kinds += KINDS_OF_RABBITMQ if broker == "rabbitmq" else ()
    steps = schedule(kinds, kills, random.Random(f"{seed} {broker}"))  # noqa: S311 - not for secrets
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
                return ChaosResult(steps, queue, http, faults.redelivered)


async def _find_withheld(broker: Broker, http: HttpClient) -> None:
    """Find stored requests that have a row with status `ok`, but whose answer cannot be fetched."""
    if unanswered := await http.unanswered():
        rows = (await read_rows(broker, "steady", ())).first
        ends = {uid: rows.get((uid_of(uid), 0, 0)) for uid in unanswered}
        http.withheld.update(uid for uid, row in ends.items() if row is not None and row.status == "ok")


@asynccontextmanager
async def _link(broker: str) -> AsyncIterator[Proxy | None]:
    """Yield a proxy in front of a server; None for the embedded broker."""
    if broker not in CONTROLS:
        yield None
        return
    async with Proxy(URLS[broker]() + HEARTBEATS.get(broker, "")) as proxy:
        yield proxy


@asynccontextmanager
async def _way_of_the_queue(installation: Installation, broker: str) -> AsyncIterator[Broker]:
    """Yield the broker of the queue client.

    On RabbitMQ the client connects through the proxy too: a request that it publishes again with the same message_id is
    the same request. On Kafka it would be another request with another id.
    """
    if broker != "rabbitmq":
        yield installation.broker
        return
    async with installation.another_broker() as way:
        yield way


def line(seed: int, kills: int, ended: Iterable[ChaosResult]) -> str:
    """The summary in one line; `twice` counts after deduplication by message_id."""
    ended = list(ended)
    clients = [client for one in ended for client in one.clients]
    return (
        f"chaos: seed {seed} kills {kills} sent {sum(len(client.sent) for client in clients)}"
        f" answered {sum(len(client.answers) for client in clients)} lost {sum(client.lost for client in clients)}"
        f" twice {sum(client.twice for client in clients)} wrong {sum(len(one.wrong) for one in ended)}"
        f" redelivered {sum(one.redelivered for one in ended)}"
    )


def _details(one: ChaosResult) -> str:
    """The details of a run: the faults, the tries by HTTP, and the first wrong answers."""
    wrong = [f"wrong: {answer}\n" for answer in one.wrong[:10]]
    return f"{', '.join(map(str, one.steps))}\nby HTTP: {dict(one.http.tries)}\n" + "".join(wrong)


def main() -> None:
    """Parse the options, run the schedule of every broker, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of faults, divided among the brokers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", choices=list(URLS), action="append", help="only this broker; repeatable")
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
