"""Sends ten times the requests that a model can compute, and checks the refusals and their Retry-After.

    python -m loadtests.overload [--broker amqp://guest:guest@127.0.0.1:25672/] [--seconds 60] [--json overload.json]

A model that sleeps computes 100 requests per second; 1,000 per second arrive by HTTP, independent of the answers. At
most the requests of 12 s may wait. Every refusal has a Retry-After, which is compared with the time until the requests
that waited then were answered. The exit status is 1 if an accepted request was not answered, or a refusal had no
Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

from broker.support.tasks import Tasks
from deploy.hosts import free_port
from deploy.supervision.supervisor import wait_until_ready
from deploy.wiring import Installation
from loadtests.harness import processes, with_children
from loadtests.report import report

PER_S = 100
BATCH = 10
OFFERED = 10
WAITING = 1200
DEADLINE_MS = 60_000
PARTS = ("gateway", "processors", "router", "monitors")
PATIENCE_S = 120.0
CONFIG = """\
name: "sleepy"
backend: "python"
max_batch_size: %d
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
MODEL = """\
import time


class Model:
    def infer(self, inputs):
        time.sleep(%r * len(inputs["x"]))
        return {"y": inputs["x"]}
"""
BODY = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}'


class OverloadClient:
    """Sends requests on persistent connections, and opens another one if none is idle."""

    def __init__(self, port: int) -> None:
        head = "POST /v2/models/sleepy/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        self._request = (
            f"{head}millrace-timeout-ms: {DEADLINE_MS}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        )
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.codes: Counter[int] = Counter()
        self.answered_s: list[float] = []
        self.refused: list[tuple[float, int, float | None]] = []  # time, answers until then, Retry-After in s
        self.accepted = 0

    async def ask(self) -> None:
        """Send one request and record its end."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(fields.get("content-length", 0)))
        code = int(head[9:12])
        self.codes[code] += 1
        if code == 200:
            self.answered_s.append(time.monotonic())
        else:
            promised = fields.get("millrace-retry-after-ms") if "retry-after" in fields else None
            self.refused.append((time.monotonic(), len(self.answered_s), float(promised) / 1e3 if promised else None))
        self._idle.append((reader, writer))

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()

    def errors(self) -> list[float]:
        """The relative error of each Retry-After against the time until all requests waiting then were answered."""
        found = []
        for at, answered, promised in self.refused:
            last = answered + WAITING - 1  # answers come in order: the last request that waited then
            if promised is not None and last < len(self.answered_s):
                true_s = self.answered_s[last] - at
                found.append(abs(promised - true_s) / true_s)
        return found


async def offer(client: OverloadClient, seconds: float) -> None:
    """Send requests at a steady rate, independent of the answers; return when all have ended."""
    tasks = Tasks()
    began, sent, total = time.monotonic(), 0, int(seconds * PER_S * OFFERED)
    while sent < total:
        due = min(total, int((time.monotonic() - began) * PER_S * OFFERED))
        for _ in range(due - sent):
            tasks.spawn(client.ask(), "ask")
        sent = due
        await asyncio.sleep(0.005)
    async with asyncio.timeout(PATIENCE_S):
        await tasks.drain()


def write_model(root: Path) -> None:
    """Write the model, which sleeps."""
    (root / "sleepy/1").mkdir(parents=True)
    (root / "sleepy/config.pbtxt").write_text(CONFIG % BATCH)
    (root / "sleepy/1/model.py").write_text(MODEL % (1 / PER_S))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load and return the figures."""
    with tempfile.TemporaryDirectory(prefix="millrace-overload-") as name:
        folder, port = Path(name), free_port()
        write_model(folder / "models")
        broker = f"broker: {{url: '{options.broker}'}}\n" if options.broker else ""
        (folder / "millrace.yaml").write_text(
            f"prefix: overload{port}.\n{broker}gateway: {{http_port: {port}, pending_limit: {WAITING}}}\n"
            "metrics: {port: 0}\n"
        )
        installation = Installation.at(folder / "millrace.yaml")
        with processes([installation.part_command(part) for part in PARTS], folder / "log") as running:
            await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True)
            client = OverloadClient(port)
            while not client.codes[200]:
                await client.ask()
                await asyncio.sleep(0.2)  # the model loads
            client.codes.clear()
            client.answered_s.clear()
            client.refused.clear()
            named = {
                part: functools.partial(with_children, process) for part, process in zip(PARTS, running, strict=True)
            }
            memory = [_memory(named)]
            load = asyncio.create_task(offer(client, options.seconds))
            await asyncio.sleep(options.seconds / 3)
            memory.append(_memory(named))
            await asyncio.sleep(options.seconds * 2 / 3)
            memory.append(_memory(named))
            await load
            client.close()
    errors = client.errors()
    return {
        "offered": sum(client.codes.values()),
        "codes": dict(client.codes),
        "rss_mib": memory,
        "without_retry_after": sum(promised is None for _, _, promised in client.refused),
        "promises": {"compared": len(errors), "median_error": median(errors) if errors else None},
    }


def _memory(named: dict[str, Any]) -> dict[str, int]:
    return {part: sum(_rss(process) for process in find()) >> 20 for part, find in named.items()}


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="", help="the broker's URL; by default the embedded broker")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = uvloop.run(measure(options))
    codes, promises = figures["codes"], figures["promises"]
    rows = [
        ("offered", f"{figures['offered']:,} at {PER_S * OFFERED}/s to a model of {PER_S}/s"),
        ("answered, refused", f"{codes.get(200, 0):,}, {codes.get(429, 0):,}; others {others(codes)}"),
        ("refusals without Retry-After", str(figures["without_retry_after"])),
        ("Retry-After against the truth", f"median error {promises['median_error']:.1%} of {promises['compared']:,}"),
        *(
            (f"memory MiB {when}", ", ".join(f"{part} {size}" for part, size in memory.items()))
            for when, memory in zip(("before", "after a third", "at the end"), figures["rss_mib"], strict=True)
        ),
    ]
    report("overload", rows, figures, options.json)
    sys.exit(1 if figures["without_retry_after"] or others(codes) else 0)


def others(codes: dict[int, int]) -> int:
    """The number of requests that were neither answered with 200 nor refused with 429."""
    return sum(count for code, count in codes.items() if code not in (200, 429))


if __name__ == "__main__":
    main()
