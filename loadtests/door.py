"""Attacks a gateway, and measures the effect on other clients.

    python -m loadtests.door [--broker amqp://guest:guest@127.0.0.1:25672/] [--seconds 30] [--json door.json]

Another process attacks with 2,000 silent connections, 1,000 slow bodies of 7 MiB, endless heads of 300 MB, and 40
connections that send 12,800 requests each after one to a slow model, all at the same time; each connection that the
gateway closes is opened again. Other clients send requests at a steady rate before and during the attack. The exit
status is 1 if one of their requests failed, if their p99 more than doubled, if the gateway grew by 150 MB, or if an
attack left no log line or no metric.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families as families

from broker.base import Since
from broker.protocol.ids import now_us
from broker.records.status import read_status
from broker.support.tasks import Tasks
from deploy.hosts import free_port
from deploy.supervision.supervisor import wait_until_ready
from deploy.wiring import Installation
from loadtests.front import open_loop
from loadtests.harness import processes
from loadtests.report import quantile, report

SILENT, SLOW, HEADS, AHEAD = 2000, 1000, 4, 40
BODY_BYTES, HEAD_BYTES = 7 << 20, 300_000_000
PIECE = b"a" * 64 * 1024
SLOW_FIRST_BYTES, SLOW_BYTES, SLOW_EVERY_S = 64 * 1024, 4096, 1.0
SENT_AHEAD = b"GET /v2 HTTP/1.1\r\n\r\n" * 12_800
SLOW_MODEL_S, AHEAD_S = 5.0, 4.0
AGAIN_S = 0.5
RATE = 100.0
MOST_RATIO, MOST_GROWTH_MB = 2.0, 150.0
REASONS = ("head_too_large", "head_too_slow", "bodies_full")
PARTS = ("gateway", "processors")
PATH = "/v2/models/same/infer"
SLOW_PATH = "/v2/models/slow/infer"
BODY = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}'
CONFIG = """\
name: "NAME"
backend: "python"
max_batch_size: 64
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
MODEL = """\
import time


class Model:
    def infer(self, inputs):
        time.sleep(WORK_S)
        return {"y": inputs["x"]}
"""


async def attack(port: int) -> None:
    """Attack until killed; prints a line when all attackers have been started."""
    os.nice(19)  # real attackers use other machines, so these must not take the gateway's CPU time
    tasks = Tasks()
    attackers = [_silent] * SILENT + [_slow_body] * SLOW + [_endless_head] * HEADS + [_sent_ahead] * AHEAD
    for attacker in attackers:
        tasks.spawn(_for_ever(attacker, port), attacker.__name__)
    sys.stdout.write(f"{len(attackers)} attackers\n")
    sys.stdout.flush()
    await tasks.drain()


async def _for_ever(attacker: Any, port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await attacker(reader, writer)
            finally:
                writer.close()
        await asyncio.sleep(AGAIN_S)


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    writer.write(head.encode() + PIECE[:SLOW_FIRST_BYTES])
    while not reader.at_eof():
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.5, 1.5) * SLOW_EVERY_S):
                await reader.read(1024)
        writer.write(PIECE[:SLOW_BYTES])


async def _endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nx: ".encode())
    for _ in range(HEAD_BYTES // len(PIECE)):
        writer.write(PIECE)
        await writer.drain()


async def _sent_ahead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = f"POST {SLOW_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
    writer.write(head.encode() + BODY + SENT_AHEAD)
    async with asyncio.timeout(AHEAD_S):
        while await reader.read(1 << 20):
            pass


def write_models(root: Path) -> None:
    """Write a model that computes nothing, and a slow one."""
    for name, work_s in (("same", 0.0), ("slow", SLOW_MODEL_S)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(CONFIG.replace("NAME", name))
        (root / name / "1/model.py").write_text(MODEL.replace("WORK_S", str(work_s)))


async def metrics_of_gateway(installation: Installation) -> dict[str, float]:
    """Read the gateway's number of refused connections and requests, by reason."""
    async with installation.broker() as broker:
        reader = broker.read(broker.channels.status, Since(now_us() - 10_000_000))
        async with asyncio.timeout(30):
            while True:
                announcements = [read_status(record) for record in await reader.read(100)]
                ports = [it.metrics_port for it in announcements if it is not None and it.part == "gateway"]
                if ports:
                    break
        await reader.close()
    page = await asyncio.to_thread(_page, ports[-1])
    return {
        one.labels["reason"]: one.value
        for family in families(page)
        for one in family.samples
        if one.name == "millrace_gateway_refused_total"
    }


def _page(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode())


@contextmanager
def attacked(port: int) -> Iterator[None]:
    """Attack from another process within the block."""
    command = [sys.executable, "-m", "loadtests.door", "--attack", str(port)]
    attacker = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert attacker.stdout is not None  # noqa: S101 - set by stdout=PIPE
        attacker.stdout.readline()
        yield
    finally:
        attacker.kill()
        attacker.wait()


async def ask(port: int, seconds: float, gateway: psutil.Process) -> dict[str, Any]:
    """Send requests at a steady rate; returns counts, latencies, and the gateway's largest resident memory."""
    most = gateway.memory_info().rss
    load = asyncio.create_task(open_loop(port, PATH, BODY, None, rate=RATE, seconds=seconds))
    while not load.done():
        await asyncio.sleep(0.1)
        most = max(most, gateway.memory_info().rss)
    seen = await load
    ms = [1e3 * quantile(seen.latencies_s, share) for share in (0.5, 0.99)]
    return {
        "answered": len(seen.latencies_s),
        "errors": seen.errors,
        "codes": dict(seen.bad_codes),
        "p50_ms": ms[0],
        "p99_ms": ms[1],
        "rss_mb": most / 1e6,
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load before and during the attack, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="millrace-door-") as temporary:
        folder, port = Path(temporary), free_port()
        write_models(folder / "models")
        broker = f"broker: {{url: '{options.broker}'}}\n" if options.broker else ""
        (folder / "millrace.yaml").write_text(
            f"prefix: door{port}.\n{broker}gateway: {{http_port: {port}}}\nmetrics: {{port: 0}}\n"
        )
        installation = Installation.at(folder / "millrace.yaml")
        with processes([installation.part_command(part) for part in PARTS], folder / "log") as running:
            await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True)
            for name in ("same", "slow"):
                await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True, path=f"/v2/models/{name}/ready")
            await ask(port, options.seconds / 4, running[0])
            before = await ask(port, options.seconds, running[0])
            with attacked(port):
                during = await ask(port, options.seconds, running[0])
            ended = await metrics_of_gateway(installation)
        logged = (folder / "log").read_text().splitlines()
    lines = [json.loads(line)["message"] for line in logged if "the door" in line]
    return {
        "before": before,
        "during": during,
        "ended": ended,
        "log": lines,
        "ratio": during["p99_ms"] / before["p99_ms"],
        "growth_mb": during["rss_mb"] - before["rss_mb"],
    }


def wrong(figures: dict[str, Any]) -> list[str]:
    """List the figures that are outside their limits."""
    found = []
    if figures["before"]["errors"] or figures["during"]["errors"]:
        codes = {**figures["before"]["codes"], **figures["during"]["codes"]}
        found.append(f"requests of other clients failed: {codes}")
    if figures["ratio"] > MOST_RATIO:
        found.append(f"p99 grew by {figures['ratio']:.2f}; {MOST_RATIO:g} is allowed")
    if figures["growth_mb"] >= MOST_GROWTH_MB:
        found.append(f"the gateway grew by {figures['growth_mb']:.0f} MB; {MOST_GROWTH_MB:g} are allowed")
    found += [f"no metric counts {reason}" for reason in REASONS if not figures["ended"].get(reason)]
    if len(figures["log"]) < len(REASONS):
        found.append(f"{len(figures['log'])} log lines for {len(REASONS)} kinds of attack")
    return found


def _row(seen: dict[str, Any]) -> str:
    times = f"p50 {seen['p50_ms']:.1f} ms, p99 {seen['p99_ms']:.1f} ms"
    return f"{times}, {seen['answered']:,} answered, {seen['errors']} failed, gateway {seen['rss_mb']:.0f} MB"


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="", help="the broker's URL; by default the embedded broker")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        uvloop.run(attack(options.attack))
        return
    figures = uvloop.run(measure(options))
    rows = [(when, _row(it)) for when, it in (("before", figures["before"]), ("under attack", figures["during"]))]
    rows += [
        ("p99, under attack to before", f"{figures['ratio']:.2f}"),
        ("the gateway grew by", f"{figures['growth_mb']:.0f} MB"),
    ]
    rows += [(f"refused, {reason}", f"{count:,.0f}") for reason, count in sorted(figures["ended"].items())]
    rows += [("log", line) for line in figures["log"]]
    found = wrong(figures)
    rows += [("WRONG", text) for text in found]
    kinds = f"{SILENT:,} silent, {SLOW:,} slow bodies, {HEADS} endless heads, {AHEAD} that send ahead"
    report(f"door: {kinds}", rows, figures, options.json)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
