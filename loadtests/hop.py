"""One hop through the port, beside what the broker's plain client does with the same messages.

    python -m loadtests.hop --broker amqp://guest:guest@127.0.0.1:25672/
    python -m loadtests.hop --broker kafka://127.0.0.1:29092
    python -m loadtests.hop --broker sqlite:////tmp/hop.db --json hop.json

On RabbitMQ: publish with confirms, take and ack through the port, against bare pika doing the same on the same kind of
queue with the same window, by turns; on Kafka the same against bare aiokafka. On SQLite: against the rate at which
SQLite itself commits the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop
from rich.console import Console
from rich.table import Table

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.messages import BINARY, Message

WINDOW = 1000
BATCH = 250
HEADER = b"\x01\x00\x01\x00" + b"h" * 116
LATENCY_PER_S = 50
LATENCY_MESSAGES = 500
PATIENCE_S = 300
LINE_BYTES = 1 << 24
BROKERS = {"amqp": "rabbitmq", "amqps": "rabbitmq", "kafka": "kafka", "sqlite": "sqlite"}


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of one way through the broker."""

    rate: float
    publish_cpu_us: float
    take_cpu_us: float
    server: str


class End:
    """One of our two processes: publishes or takes all messages, and reports on standard output."""

    def __init__(self, broker: Broker, queue: str, options: argparse.Namespace) -> None:
        self.broker = broker
        self.queue = queue
        self.messages: int = options.messages
        self.body = b"x" * options.size

    async def publish(self) -> float:
        """Keep the window full with batches, four on the way at any time."""
        began_s = time.time()
        batches = iter([min(BATCH, self.messages - at) for at in range(0, self.messages, BATCH)])
        await asyncio.gather(*(self._publish(batches) for _ in range(WINDOW // BATCH)))
        return began_s

    async def _publish(self, batches: Iterator[int]) -> None:
        for count in batches:
            outcomes = await self.broker.publish(
                [Message(queue=self.queue, body=self.body, header=HEADER, content_type=BINARY) for _ in range(count)]
            )
            if not all(outcome.safe for outcome in outcomes):
                raise RuntimeError(f"refused: {set(outcomes)}")

    async def take(self) -> float:
        """Take and ack everything."""
        consumer = self.broker.consume(self.queue, WINDOW)
        say({"ready": True})
        left, began_s = self.messages, 0.0
        while left:
            deliveries = await consumer.take(WINDOW)
            began_s = began_s or time.time()
            await self.broker.ack(deliveries)
            left -= len(deliveries)
        return began_s

    async def pulse(self) -> float:
        """Publish the time of day at a steady low rate."""
        began_s = time.time()
        for at in range(self.messages):
            await asyncio.sleep(max(0.0, began_s + at / LATENCY_PER_S - time.time()))
            await self.broker.publish([Message(queue=self.queue, body=str(time.time_ns()).encode(), header=HEADER)])
        return began_s

    async def feel(self) -> float:
        """Take them and report how old each was."""
        consumer = self.broker.consume(self.queue, WINDOW)
        say({"ready": True})
        ages_ms: list[float] = []
        while len(ages_ms) < self.messages:
            deliveries = await consumer.take(WINDOW)
            ages_ms += [(time.time_ns() - int(delivery.message.body)) / 1e6 for delivery in deliveries]
            await self.broker.ack(deliveries)
        say({"ages_ms": ages_ms})
        return 0.0


async def be_end(options: argparse.Namespace) -> None:
    """Be a child process."""
    async with connect(options.broker, Channels(options.prefix)) as broker:
        end = End(broker, options.queue, options)
        before = resource.getrusage(resource.RUSAGE_SELF)
        began_s = await getattr(end, options.end)()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        say({"began_s": began_s, "ended_s": time.time(), "cpu_us": cpu_s / options.messages * 1e6})


def say(what: dict[str, Any]) -> None:
    """Tell the parent process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def child(module: str, *words: str | int) -> subprocess.Popen[str]:
    """Start a process that reports in lines of JSON."""
    return subprocess.Popen([sys.executable, "-P", "-m", module, *map(str, words)], stdout=subprocess.PIPE, text=True)


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next line that a child reports."""
    line = process.stdout.readline(LINE_BYTES) if process.stdout else ""
    if not line:
        raise RuntimeError(f"a process of the hop has ended with status {process.wait(PATIENCE_S)}")
    return dict(json.loads(line))


@contextmanager
def children(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """End the children in any case."""
    try:
        yield
        for process in processes:
            process.wait(PATIENCE_S)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


class BrokerHop:
    """The parent: declares queues, runs both ways by turns, and compares."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.channels = Channels(f"hop{uuid4().hex[:8]}.")
        self.broker = BROKERS[options.broker.partition(":")[0]]

    def measure(self) -> dict[str, Any]:
        """Return all figures."""
        ours, bare = [], []
        for _ in range(self.options.repeat):
            bare.append(self._bare_sqlite() if self.broker == "sqlite" else self._on_a_queue(self._bare))
            ours.append(self._on_a_queue(self._port))
        ages_ms = sorted(self._on_a_queue(self._latency))
        return {
            "broker": self.broker,
            "messages": self.options.messages,
            "size": self.options.size,
            "port": summary(ours),
            "bare": summary(bare),
            "ratio": median(run.rate for run in ours) / median(run.rate for run in bare),
            "latency_ms": {"p50": percentile(ages_ms, 0.5), "p99": percentile(ages_ms, 0.99)},
            "versions": {name: version(name) for name in ("pika", "aiokafka", "uvloop", "apsw")}
            | {"python": platform.python_version(), "server": bare[0].server},
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        }

    def _on_a_queue(self, way: Any) -> Any:
        queue = self.channels.inputs("hop", 1)

        async def prepare(*, declare: bool) -> None:
            async with connect(self.options.broker, self.channels) as broker:
                await (broker.declare(queue) if declare else broker.delete(queue))

        uvloop.run(prepare(declare=True))
        try:
            return way(queue)
        finally:
            uvloop.run(prepare(declare=False))

    def _bare(self, queue: str) -> Figures:
        module, address = "loadtests.bare.pika_hop", self.options.broker
        if self.broker == "kafka":
            module, address = "loadtests.bare.kafka_hop", urlsplit(address).netloc
        words = (address, queue, self.options.messages, self.options.size)
        return hop_of(module, ("consume", *words), ("publish", *words))

    def _bare_sqlite(self) -> Figures:
        beside = "/" + self.options.broker.partition(":///")[2].lstrip("/")
        process = child("loadtests.bare.sqlite_commit", beside, self.options.messages, self.options.size, BATCH)
        with children(process):
            heard = hear(process)
        return Figures(heard["rate"], 0.0, 0.0, heard["server"])

    def _port(self, queue: str) -> Figures:
        return hop_of("loadtests.hop", self._end("take", queue), self._end("publish", queue))

    def _latency(self, queue: str) -> list[float]:
        taker = child("loadtests.hop", *self._end("feel", queue, LATENCY_MESSAGES))
        with children(taker):
            hear(taker)
            with children(child("loadtests.hop", *self._end("pulse", queue, LATENCY_MESSAGES))):
                return list(hear(taker)["ages_ms"])

    def _end(self, end: str, queue: str, messages: int | None = None) -> tuple[str | int, ...]:
        options = self.options
        return (
            "--broker",
            options.broker,
            "--end",
            end,
            "--queue",
            queue,
            "--prefix",
            self.channels.prefix,
            "--messages",
            messages or options.messages,
            "--size",
            options.size,
        )


def hop_of(module: str, take: tuple[str | int, ...], publish: tuple[str | int, ...]) -> Figures:
    """Run a taker and a publisher: the rate is from the first publish to the last ack."""
    taker = child(module, *take)
    with children(taker):
        server = hear(taker).get("server", "")
        publisher = child(module, *publish)
        with children(publisher):
            published, taken = hear(publisher), hear(taker)
    messages = int(take[take.index("--messages") + 1]) if "--messages" in take else int(take[3])
    return Figures(messages / (taken["ended_s"] - published["began_s"]), published["cpu_us"], taken["cpu_us"], server)


def summary(runs: list[Figures]) -> dict[str, Any]:
    """Return the medians and every run."""
    return {
        "rate": median(run.rate for run in runs),
        "publish_cpu_us": median(run.publish_cpu_us for run in runs),
        "take_cpu_us": median(run.take_cpu_us for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def percentile(ordered: list[float], share: float) -> float:
    """Return the smallest value that `share` of the others do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(figures: dict[str, Any]) -> None:
    """Print a table for people."""
    table = Table(
        title=f"one hop on {figures['versions']['server']}, {figures['messages']:,} x {figures['size']} bytes"
    )
    for column in ("way", "messages/s", "publish CPU us", "take CPU us"):
        table.add_column(column, justify="right")
    for way in ("port", "bare"):
        row = figures[way]
        table.add_row(way, f"{row['rate']:,.0f}", f"{row['publish_cpu_us']:.1f}", f"{row['take_cpu_us']:.1f}")
    console = Console()
    console.print(table)
    latency = figures["latency_ms"]
    console.print(f"port / bare = {figures['ratio']:.2f}")
    console.print(f"at {LATENCY_PER_S}/s: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")


def read_options() -> argparse.Namespace:
    """Read the arguments; `--end` makes a child."""
    description = (__doc__ or "").split("\n\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m loadtests.hop", description=description)
    parser.add_argument("--broker", required=True, help="amqp://..., kafka://... or sqlite:////path/to/file.db")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of body")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way, by turns")
    parser.add_argument("--json", type=Path, help="write the figures here")
    for hidden in ("--end", "--queue", "--prefix"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, show and write."""
    options = read_options()
    if options.end:
        uvloop.run(be_end(options))
        return
    figures = BrokerHop(options).measure()
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
