"""Measures one hop through the broker port, compared with the broker's bare client library.

    python -m loadtests.hop --broker amqp://guest:guest@127.0.0.1:25672/
    python -m loadtests.hop --broker kafka://127.0.0.1:29092
    python -m loadtests.hop --broker sqlite:////tmp/hop.db --json hop.json

On RabbitMQ it publishes with confirms, takes and acks through the port, and does the same with bare pika, on the same
type of queue and with the same window, in alternating turns. On Kafka it compares with bare aiokafka. On SQLite it
compares with the rate at which SQLite itself commits the same rows.
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
    """The figures of one run: messages per second, CPU time for each message, and the server's version."""

    rate: float
    publish_cpu_us: float
    take_cpu_us: float
    server: str


class End:
    """One of the two processes: it publishes or takes all messages, and reports on standard output."""

    def __init__(self, broker: Broker, queue: str, options: argparse.Namespace) -> None:
        self.broker = broker
        self.queue = queue
        self.messages: int = options.messages
        self.body = b"x" * options.size

    async def publish(self) -> float:
        """Publish all messages, with WINDOW / BATCH batches unconfirmed at any time; returns the start time."""
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
        """Take and ack all messages; returns the time of the first delivery."""
        consumer = self.broker.consume(self.queue, WINDOW)
        send_report({"ready": True})
        left, began_s = self.messages, 0.0
        while left:
            deliveries = await consumer.take(WINDOW)
            began_s = began_s or time.time()
            await self.broker.ack(deliveries)
            left -= len(deliveries)
        return began_s

    async def publish_times(self) -> float:
        """Publish the present time at a steady low rate."""
        began_s = time.time()
        for at in range(self.messages):
            await asyncio.sleep(max(0.0, began_s + at / LATENCY_PER_S - time.time()))
            await self.broker.publish([Message(queue=self.queue, body=str(time.time_ns()).encode(), header=HEADER)])
        return began_s

    async def take_ages(self) -> float:
        """Take the messages of `publish_times`, and report the age of each in milliseconds."""
        consumer = self.broker.consume(self.queue, WINDOW)
        send_report({"ready": True})
        ages_ms: list[float] = []
        while len(ages_ms) < self.messages:
            deliveries = await consumer.take(WINDOW)
            ages_ms += [(time.time_ns() - int(delivery.message.body)) / 1e6 for delivery in deliveries]
            await self.broker.ack(deliveries)
        send_report({"ages_ms": ages_ms})
        return 0.0


async def run_end(options: argparse.Namespace) -> None:
    """Run one end of the hop in a child process."""
    async with connect(options.broker, Channels(options.prefix)) as broker:
        end = End(broker, options.queue, options)
        before = resource.getrusage(resource.RUSAGE_SELF)
        began_s = await getattr(end, options.end)()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        send_report({"began_s": began_s, "ended_s": time.time(), "cpu_us": cpu_s / options.messages * 1e6})


def send_report(report: dict[str, Any]) -> None:
    """Write a line of JSON for the parent process."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def child(module: str, *words: str | int) -> subprocess.Popen[str]:
    """Start a process that writes lines of JSON."""
    return subprocess.Popen([sys.executable, "-P", "-m", module, *map(str, words)], stdout=subprocess.PIPE, text=True)


def read_report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the next line of a child; raises RuntimeError if it has ended."""
    line = process.stdout.readline(LINE_BYTES) if process.stdout else ""
    if not line:
        raise RuntimeError(f"a process of the hop has ended with status {process.wait(PATIENCE_S)}")
    return dict(json.loads(line))


@contextmanager
def children(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Wait for the children after the block; kill them if it fails."""
    try:
        yield
        for process in processes:
            process.wait(PATIENCE_S)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


class BrokerHop:
    """The parent process: it declares queues, runs both ways in alternating turns, and compares them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.channels = Channels(f"hop{uuid4().hex[:8]}.")
        self.broker = BROKERS[options.broker.partition(":")[0]]

    def measure(self) -> dict[str, Any]:
        """Run all turns and return the figures."""
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
            report = read_report(process)
        return Figures(report["rate"], 0.0, 0.0, report["server"])

    def _port(self, queue: str) -> Figures:
        return hop_of("loadtests.hop", self._end("take", queue), self._end("publish", queue))

    def _latency(self, queue: str) -> list[float]:
        taker = child("loadtests.hop", *self._end("take_ages", queue, LATENCY_MESSAGES))
        with children(taker):
            read_report(taker)
            with children(child("loadtests.hop", *self._end("publish_times", queue, LATENCY_MESSAGES))):
                return list(read_report(taker)["ages_ms"])

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
    """Run a taker and a publisher; the rate is measured from the first publish to the last ack."""
    taker = child(module, *take)
    with children(taker):
        server = read_report(taker).get("server", "")
        publisher = child(module, *publish)
        with children(publisher):
            published, taken = read_report(publisher), read_report(taker)
    messages = int(take[take.index("--messages") + 1]) if "--messages" in take else int(take[3])
    return Figures(messages / (taken["ended_s"] - published["began_s"]), published["cpu_us"], taken["cpu_us"], server)


def summary(runs: list[Figures]) -> dict[str, Any]:
    """The medians over all runs, and the runs."""
    return {
        "rate": median(run.rate for run in runs),
        "publish_cpu_us": median(run.publish_cpu_us for run in runs),
        "take_cpu_us": median(run.take_cpu_us for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` of the values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
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
    """Parse the arguments; `--end` marks a child process."""
    description = (__doc__ or "").split("\n\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m loadtests.hop", description=description)
    parser.add_argument("--broker", required=True, help="amqp://..., kafka://... or sqlite:////path/to/file.db")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of body")
    parser.add_argument("--repeat", type=int, default=3, help="number of runs of each way")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    for hidden in ("--end", "--queue", "--prefix"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Parse the options, measure, print and write the figures."""
    options = read_options()
    if options.end:
        uvloop.run(run_end(options))
        return
    figures = BrokerHop(options).measure()
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
