"""The whole path: queue, batch, model, reply queue, beside the broker's own limit; then HTTP in front of it.

    python -m loadtests.path --broker amqp://guest:guest@127.0.0.1:25672/ [--json path.json]
    python -m loadtests.path --broker kafka://127.0.0.1:29092
    python -m loadtests.path --broker sqlite:////tmp/path.db

In one run, by turns. `small`: single messages through the real processor against the broker's bare client around the
same model: pika on RabbitMQ, aiokafka on Kafka, none on SQLite and over TLS on Kafka. `bundled`: the same requests in
bundles, against the single ones. `heavy`: a model of about 5 ms a call against the bare model at batch 32, in fresh
processes each turn. `http`: 64 connections, then 50 requests a second. One torch thread everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

from broker.base import Broker
from broker.protocol.bundle import single
from broker.protocol.header import ReplyTo
from deploy.hosts import free_port
from deploy.processes.shell import GC_THRESHOLD
from deploy.supervision.supervisor import wait_until_ready
from deploy.wiring import Installation
from loadtests.front import closed_loop, open_loop
from loadtests.harness import (
    Cost,
    processes,
    run_json,
    server_processes,
    wait_for_replica,
    with_children,
    write_models,
    write_settings,
)
from loadtests.heavy import measure_heavy
from loadtests.queue_client import body, bundled, request_on, route_to
from loadtests.report import quantile, report

KINDS = ("queue", "heavy", "http")
IN_FLIGHT = 8192
WINDOW = 2048  # of single messages: more gains neither side anything
UID_AT_MARK = bytes(range(240, 256))
BARE = {"amqp": "pika", "amqps": "pika", "kafka": "aiokafka"}
BARE_MODULES = {"pika": "loadtests.bare.pika_path", "aiokafka": "loadtests.bare.kafka_path"}


def bare_client(url: str) -> str | None:
    """Return the library that the broker's limit is measured with."""
    return BARE.get(url.partition(":")[0])


class Plain:
    """The queues of the plain clients, which are no channels of the installation."""

    def __init__(self, place: Installation) -> None:
        prefix = place.settings.channels.prefix
        self.replies = f"bench.replies.{prefix}"
        self.bare = f"bench.bare.{prefix}"
        self.bare_replies = f"bench.bare-replies.{prefix}"

    async def remove(self, broker: Broker) -> None:
        """Delete them."""
        for queue in (self.replies, self.bare, self.bare_replies):
            await broker.delete(queue)


def single_ours(place: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """Single messages of a plain client through the real processor."""
    reply = Plain(place).replies
    request = request_on(route_to("mlp", ReplyTo.CLIENT, reply), UID_AT_MARK)
    message = single(place.settings.channels.inputs("mlp", 1), request)
    return run_json(
        [
            "-m",
            BARE_MODULES[bare],
            "client",
            "--url",
            url,
            "--to",
            message.queue,
            "--reply",
            reply,
            "--messages",
            str(requests),
            "--window",
            str(WINDOW),
            "--header",
            b64encode(message.header).decode(),
            "--body",
            b64encode(message.body).decode(),
            "--uid-at",
            str(message.header.index(UID_AT_MARK)),
        ]
    )


def single_bare(place: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """The same from the bare processor."""
    plain = Plain(place)
    return run_json(
        [
            "-m",
            BARE_MODULES[bare],
            "client",
            "--url",
            url,
            "--to",
            plain.bare,
            "--reply",
            plain.bare_replies,
            "--messages",
            str(requests),
            "--window",
            str(WINDOW),
            "--body",
            b64encode(body()[0]).decode(),
        ]
    )


async def measure_queue(place: Installation, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure small and bundled against one replica."""
    figures: dict[str, Any] = {}
    folder, bare = place.path.parent, bare_client(url)
    commands = [place.part_command("replica", "mlp", "1")]
    if bare:
        commands.append(
            [
                sys.executable,
                "-P",
                "-W",
                "ignore",
                "-m",
                BARE_MODULES[bare],
                "processor",
                "--url",
                url,
                "--to",
                Plain(place).bare,
                "--model",
                str(folder / "models/mlp/1/model.pt"),
            ]
        )
    with processes(commands, folder / "log") as running:
        async with place.broker() as broker:
            await wait_for_replica(broker, running[0])
        await bundled(place, "mlp", options.warm, IN_FLIGHT)
        rss = running[0].memory_info().rss
        figures["small"], figures["bundled"] = await _by_turns(place, url, options, running)
        figures["processor_rss_mib"] = {"before": rss >> 20, "after": running[0].memory_info().rss >> 20}
    async with place.broker() as broker:
        await Plain(place).remove(broker)
    return figures


async def _by_turns(
    place: Installation, url: str, options: argparse.Namespace, running: list[psutil.Process]
) -> tuple[dict[str, Any], dict[str, Any]]:
    client, server = bare_client(url), not url.startswith("sqlite")
    ours, bare, many, costs = [], [], [], []
    for _ in range(options.repeat):
        if client:
            bare.append((await asyncio.to_thread(single_bare, place, url, client, options.requests))["rate"])
            ours.append((await asyncio.to_thread(single_ours, place, url, client, options.requests))["rate"])
        cost = Cost({"processor": lambda: running[:1], "broker": lambda: server_processes(url) if server else []})
        many.append(await bundled(place, "mlp", 5 * options.requests, IN_FLIGHT))
        costs.append(cost.us_each(5 * options.requests))
    in_bundles = {"rate": median(many), "cpu_us": costs[-1]}
    if not client:
        return {}, in_bundles
    small = {"rate": median(ours), "bare_rate": median(bare), "ratio": median(ours) / median(bare)}
    return small, {**in_bundles, "ratio": median(many) / median(ours)}


async def measure_http(place: Installation, options: argparse.Namespace, *, server: bool) -> dict[str, Any]:
    """Measure the whole installation from HTTP: saturated by 64 connections, then at 50 requests a second."""
    port, parts = place.settings.gateway.http_port, ("gateway", "processors", "router", "monitors")
    (place.path.parent / "models" / "heavy").rename(place.path.parent / "heavy-away")
    data, json_length = body()
    with processes([place.part_command(part) for part in parts], place.path.parent / "log") as running:
        await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True)
        try:
            await wait_for_model(port)
        except RuntimeError as exc:
            raise RuntimeError(f"{exc}; the parts said:\n{(place.path.parent / 'log').read_text()[-3000:]}") from exc
        named = {part: functools.partial(with_children, process) for part, process in zip(parts, running, strict=True)}
        if server:
            named["broker"] = functools.partial(server_processes, place.settings.broker_url)
        await closed_loop(port, "/v2/models/mlp/infer", data, json_length, connections=64, seconds=2.0)
        quiet = await open_loop(port, "/v2/models/mlp/infer", data, json_length, rate=50.0, seconds=options.seconds)
        cost = Cost(named)
        busy = await closed_loop(
            port, "/v2/models/mlp/infer", data, json_length, connections=64, seconds=options.seconds
        )
        cpu = cost.us_each(len(busy.latencies_s))
        rss = {part: sum(p.memory_info().rss for p in find()) >> 20 for part, find in named.items()}
    return {
        "rate": len(busy.latencies_s) / busy.took_s,
        "connections": 64,
        "cpu_us": cpu,
        "rss_mib": rss,
        "errors": busy.errors + quiet.errors,
        "saturated_ms": {"p50": 1e3 * quantile(busy.latencies_s, 0.5), "p99": 1e3 * quantile(busy.latencies_s, 0.99)},
        "latency_ms": {"p50": 1e3 * quantile(quiet.latencies_s, 0.5), "p99": 1e3 * quantile(quiet.latencies_s, 0.99)},
    }


async def wait_for_model(port: int) -> None:
    """Return when the small model answers."""
    data, json_length = body()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        tried = await closed_loop(port, "/v2/models/mlp/infer", data, json_length, connections=1, seconds=0.2)
        if tried.latencies_s:
            return
        await asyncio.sleep(0.5)
    raise RuntimeError("the model does not answer over HTTP")


def lines(figures: dict[str, Any], bare: str | None) -> list[tuple[str, str]]:
    """Return the figures as people read them."""
    rows = []
    if small := figures.get("small"):
        rows.append(
            (
                "single messages",
                f"{small['rate']:,.0f}/s, bare {bare} {small['bare_rate']:,.0f}/s, ratio {small['ratio']:.2f}",
            )
        )
    if many := figures.get("bundled"):
        ratio = f", {many['ratio']:.1f} times the single ones" if "ratio" in many else ""
        rows.append(
            (f"in bundles, {IN_FLIGHT} in flight", f"{many['rate']:,.0f}/s{ratio}; CPU us {_rounded(many['cpu_us'])}")
        )
    if heavy := figures.get("heavy"):
        rows.append(
            (
                "heavy model",
                f"{heavy['rate']:,.0f}/s, alone {heavy['bare_rate']:,.0f} rows/s, ratio {heavy['ratio']:.2f};"
                f" {heavy['in_model']:.0%} of the time in the model, {heavy['call_ms']:.1f} ms a call,"
                f" alone {heavy['bare_call_ms']:.1f}; turns {heavy['ratios'][0]:.2f} to {heavy['ratios'][1]:.2f}",
            )
        )
    if http := figures.get("http"):
        rows.append(
            (
                "HTTP, 64 connections",
                f"{http['rate']:,.0f}/s, p50 {http['saturated_ms']['p50']:.1f} ms,"
                f" p99 {http['saturated_ms']['p99']:.1f} ms",
            )
        )
        rows.append(("  CPU us a request", _rounded(http["cpu_us"])))
        rows.append(("  memory MiB", _rounded(http["rss_mib"])))
        rows.append(("HTTP at 50/s", f"p50 {http['latency_ms']['p50']:.2f} ms, p99 {http['latency_ms']['p99']:.2f} ms"))
    return rows


def _rounded(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    url = "" if options.broker.startswith("sqlite") else options.broker
    figures: dict[str, Any] = {"broker": options.broker.split("@")[-1]}
    with tempfile.TemporaryDirectory(prefix="millrace-path-") as name:
        folder = Path(name)
        await asyncio.to_thread(write_models, folder / "models")
        if "queue" in options.only:
            figures.update(await measure_queue(write_settings(folder, url, 0), options.broker, options))
        if "heavy" in options.only:
            place = write_settings(folder, url, 0)
            figures["heavy"] = await measure_heavy(
                place, repeat=2 * options.repeat + 1, warm=options.warm, requests=2 * options.requests
            )
        if "http" in options.only:
            place = write_settings(folder, url, free_port())
            figures["http"] = await measure_http(place, options, server=bool(url))
            figures["latency_ms"] = figures["http"]["latency_ms"]
    return figures


def main() -> None:
    """Read the options, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--requests", type=int, default=15_000, help="single messages a turn")
    parser.add_argument("--warm", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLD)  # as in every process of ours
    figures = uvloop.run(measure(options))
    report(f"path on {figures['broker']}", lines(figures, bare_client(options.broker)), figures, options.json)


if __name__ == "__main__":
    main()
