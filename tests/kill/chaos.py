"""Kills at random under steady load, by a seed: every request is answered, once, with its own number.

    make chaos KILLS=200 SEED=1                     over all three brokers
    python -m tests.kill.chaos --kills 20 --seed 1 --broker kafka

Replicas, the router and the catalog get SIGKILL, SIGTERM or a pause of SIGSTOP; RabbitMQ and Kafka are killed and
started again. Ends with one line, and status 1 unless nothing was lost, twice or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import httpx

from tests.kill.client import Client
from tests.kill.installation import Installation, is_alive, kill_process, until
from tests.kill.models import STEADY
from tests.servers import control_kafka, control_rabbitmq, kafka_url, rabbitmq_url

EVERY_S = 0.2
AT_A_TIME = 40
PAUSE_S = 5.0  # of SIGSTOP
CALM_S = (0.5, 2.5)  # before each kill
PROGRESS = 200  # answers between two kills
PATIENCE_S = 120.0
ATTEMPTS = 50  # the kills of this test are no fault of any request's
SETTLED_S = 10.0  # a new quorum queue that is killed at once can lose its leader
URLS: dict[str, Callable[[], str]] = {"sqlite": lambda: "", "rabbitmq": rabbitmq_url, "kafka": kafka_url}
CONTROLS: dict[str, Callable[..., None]] = {"rabbitmq": control_rabbitmq, "kafka": control_kafka}


class Chaos:
    """One installation, one client, one schedule."""

    def __init__(self, installation: Installation, client: Client, broker: str, draw: random.Random) -> None:
        self._installation = installation
        self._client = client
        self._broker = broker
        self._draw = draw
        self._sending = True
        self.redelivered = 0
        self.done: list[str] = []
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "replica killed": lambda: self._signal_replica(signal.SIGKILL),
            "replica stopped": lambda: self._signal_replica(signal.SIGTERM),
            "replica paused": self._pause_replica,
            "router killed": lambda: self._kill_part("router"),
            "router stopped": lambda: self._stop_part("router"),
            "catalog killed": lambda: self._kill_part("processors"),
        }
        if broker in CONTROLS:
            self._kinds["broker killed"] = self._kill_broker

    async def run(self, kills: int) -> None:
        """Send all the while, kill so many times, and wait for every answer."""
        sending = asyncio.create_task(self._send())
        await asyncio.sleep(SETTLED_S if self._broker in CONTROLS else 0)
        for _ in range(kills):
            await self._calm()
            kind = self._draw.choice(list(self._kinds))
            self.done.append(kind)
            await self._kinds[kind]()
        self._sending = False
        await sending
        await self._client.all_answered()
        self.redelivered += await self._came_back()

    async def _send(self) -> None:
        number = 0
        while self._sending:
            await self._client.send(range(number, number + AT_A_TIME))
            number += AT_A_TIME
            await asyncio.sleep(EVERY_S)

    async def _calm(self) -> None:
        """Wait until things move again, and a moment."""
        wanted = len(self._client.answers) + PROGRESS
        await until(lambda: len(self._client.answers) >= wanted, PATIENCE_S)
        await asyncio.sleep(self._draw.uniform(*CALM_S))

    async def _replica(self) -> int:
        return (await self._installation.replica()).pid

    async def _signal_replica(self, number: signal.Signals) -> None:
        self.redelivered += await self._came_back()
        pid = await self._replica()
        kill_process(pid, number)
        await until(lambda: not is_alive(pid), PATIENCE_S)

    async def _pause_replica(self) -> None:
        pid = await self._replica()
        kill_process(pid, signal.SIGSTOP)
        await asyncio.sleep(PAUSE_S)
        with contextlib.suppress(ProcessLookupError):
            kill_process(pid, signal.SIGCONT)

    async def _kill_part(self, part: str) -> None:
        if part == "processors":
            self.redelivered += await self._came_back()
        self._installation.kill(part)
        self._installation.start(part)

    async def _stop_part(self, part: str) -> None:
        await self._installation.stop(part)
        self._installation.start(part)

    async def _kill_broker(self) -> None:
        await asyncio.to_thread(CONTROLS[self._broker], "kill")
        await asyncio.sleep(self._draw.uniform(0.0, 1.0))
        await asyncio.to_thread(CONTROLS[self._broker], "start")

    async def _came_back(self) -> int:
        with contextlib.suppress(httpx.HTTPError, AssertionError, TimeoutError):
            return await self._installation.redelivered()
        return 0


async def chaos(broker: str, kills: int, seed: int) -> tuple[Client, Chaos]:
    """Run one broker's share; returns what the client saw and what was done."""
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
        async with Installation(Path(folder), URLS[broker]()) as installation:
            await installation.serve("steady", STEADY, retry={"attempts": ATTEMPTS})
            async with Client(installation.broker, "steady") as client:
                run = Chaos(installation, client, broker, random.Random(f"{seed} {broker}"))  # noqa: S311 - a schedule is no secret
                await run.run(kills)
                return client, run


def line(seed: int, kills: int, ended: Iterable[tuple[Client, Chaos]]) -> str:
    """Return the one line that says it all; `twice` is after dedupe by message_id."""
    clients = [client for client, _ in ended]
    return (
        f"chaos: seed {seed} kills {kills} sent {sum(len(client.sent) for client in clients)}"
        f" answered {sum(len(client.answers) for client in clients)} lost {sum(client.lost for client in clients)}"
        f" twice {sum(client.twice for client in clients)} wrong {sum(len(client.wrong()) for client in clients)}"
        f" redelivered {sum(run.redelivered for _, run in ended)}"
    )


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
        sys.stdout.write(line(options.seed, share, ended[-1:]).replace("chaos:", f"{broker}:") + "\n")
        sys.stdout.flush()
    sys.stdout.write(line(options.seed, options.kills, ended) + "\n")
    bad = any(client.lost or client.twice or client.wrong() for client, _ in ended)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
