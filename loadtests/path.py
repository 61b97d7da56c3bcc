"""Measures the whole path (queue, batch, model, reply queue), compared with the broker's own limit; then with HTTP.

    python -m loadtests.path --broker amqp://guest:guest@127.0.0.1:25672/ [--json path.json]
    python -m loadtests.path --broker kafka://127.0.0.1:29092
    python -m loadtests.path --broker sqlite:////tmp/path.db

It measures in alternating turns. `small`: single messages through the real processor, compared with the broker's bare
client around the same model (pika on RabbitMQ, aiokafka on Kafka; none on SQLite, and none over TLS on Kafka).
`bundled`: the same requests in bundles, compared with single ones. `heavy`: a model of about 5 ms for each call,
compared with the bare model with batches of 32, in fresh processes for each turn. `http`: 64 connections, then 50
requests per second. torch has one thread everywhere.
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
from loadtests.compute_bound import measure_compute_bound
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
from loadtests.queue_client import body, bundled, request_on, route_to
from loadtests.report import quantile, report

KINDS = ("queue", "heavy", "http")
IN_FLIGHT = 8192
WINDOW = 2048  # single messages in flight; a larger window is not faster on either side
UID_AT_MARK = bytes(range(240, 256))
BARE = {"amqp": "pika", "amqps": "pika", "kafka": "aiokafka"}
BARE_MODULES = {"pika": "loadtests.bare.pika_path", "aiokafka": "loadtests.bare.kafka_path"}


def bare_client(url: str) -> str | None:
    """The library that measures the broker's limit, None if there is none."""
    return BARE.get(url.partition(":")[0])


class BareQueues:
    """The names of the bare clients' queues, which are not channels of the installation."""

    def __init__(self, installation: Installation) -> None:
        prefix = installation.settings.channels.prefix
        self.replies = f"bench.replies.{prefix}"
        self.bare = f"bench.bare.{prefix}"
        self.bare_replies = f"bench.bare-replies.{prefix}"

    async def remove(self, broker: Broker) -> None:
        """Delete the queues."""
        for queue in (self.replies, self.bare, self.bare_replies):
            await broker.delete(queue)


def single_ours(installation: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """Measure single messages of a bare client through the real processor."""
    reply = BareQueues(installation).replies
    request = request_on(route_to("mlp", ReplyTo.CLIENT, reply), UID_AT_MARK)
    message = single(installation.settings.channels.inputs("mlp", 1), request)
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


def single_bare(installation: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """Measure the same messages through the bare processor."""
    plain = BareQueues(installation)
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


async def measure_queue(installation: Installation, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure `small` and `bundled` with one replica."""
    figures: dict[str, Any] = {}
    folder, bare = installation.path.parent, bare_client(url)
    commands = [installation.part_command("replica", "mlp", "1")]
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
                BareQueues(installation).bare,
                "--model",
                str(folder / "models/mlp/1/model.pt"),
            ]
        )
    with processes(commands, folder / "log") as running:
        async with installation.broker() as broker:
            await wait_for_replica(broker, running[0])
        await bundled(installation, "mlp", options.warm, IN_FLIGHT)
        rss = running[0].memory_info().rss
        figures["small"], figures["bundled"] = await _by_turns(installation, url, options, running)
        figures["processor_rss_mib"] = {"before": rss >> 20, "after": running[0].memory_info().rss >> 20}
    async with installation.broker() as broker:
        await BareQueues(installation).remove(broker)
    return figures


async def _by_turns(
    installation: Installation, url: str, options: argparse.Namespace, running: list[psutil.Process]
) -> tuple[dict[str, Any], dict[str, Any]]:
    client, server = bare_client(url), not url.startswith("sqlite")
    ours, bare, many, costs = [], [], [], []
    for _ in range(options.repeat):
        if client:
            bare.append((await asyncio.to_thread(single_bare, installation, url, client, options.requests))["rate"])
            ours.append((await asyncio.to_thread(single_ours, installation, url, client, options.requests))["rate"])
        cost = Cost({"processor": lambda: running[:1], "broker": lambda: server_processes(url) if server else []})
        many.append(await bundled(installation, "mlp", 5 * options.requests, IN_FLIGHT))
        costs.append(cost.us_each(5 * options.requests))
    in_bundles = {"rate": median(many), "cpu_us": costs[-1]}
    if not client:
        return {}, in_bundles
    small = {"rate": median(ours), "bare_rate": median(bare), "ratio": median(ours) / median(bare)}
    return small, {**in_bundles, "ratio": median(many) / median(ours)}


async def measure_http(installation: Installation, options: argparse.Namespace, *, server: bool) -> dict[str, Any]:
    """Measure the whole installation by HTTP: at 50 requests per second, and saturated by 64 connections."""
    port, parts = installation.settings.gateway.http_port, ("gateway", "processors", "router", "monitors")
    (installation.path.parent / "models" / "heavy").rename(installation.path.parent / "heavy-away")
    data, json_length = body()
    with processes([installation.part_command(part) for part in parts], installation.path.parent / "log") as running:
        await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True)
        try:
            await wait_for_model(port)
        except RuntimeError as exc:
            raise RuntimeError(
                f"{exc}; the parts' output:\n{(installation.path.parent / 'log').read_text()[-3000:]}"
            ) from exc
        named = {part: functools.partial(with_children, process) for part, process in zip(parts, running, strict=True)}
        if server:
            named["broker"] = functools.partial(server_processes, installation.settings.broker_url)
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
    """Wait until the small model answers; raises RuntimeError after 60 s."""
    data, json_length = body()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        tried = await closed_loop(port, "/v2/models/mlp/infer", data, json_length, connections=1, seconds=0.2)
        if tried.latencies_s:
            return
        await asyncio.sleep(0.5)
    raise RuntimeError("the model does not answer over HTTP")


def lines(figures: dict[str, Any], bare: str | None) -> list[tuple[str, str]]:
    """Format the figures as rows of a table."""
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
    """Measure the kinds in `--only` and return the figures."""
    url = "" if options.broker.startswith("sqlite") else options.broker
    figures: dict[str, Any] = {"broker": options.broker.split("@")[-1]}
    with tempfile.TemporaryDirectory(prefix="millrace-path-") as name:
        folder = Path(name)
        await asyncio.to_thread(write_models, folder / "models")
        if "queue" in options.only:
            figures.update(await measure_queue(write_settings(folder, url, 0), options.broker, options))
        if "heavy" in options.only:
            installation = write_settings(folder, url, 0)
            figures["heavy"] = await measure_compute_bound(
                installation, repeat=2 * options.repeat + 1, warm=options.warm, requests=2 * options.requests
            )
        if "http" in options.only:
            installation = write_settings(folder, url, free_port())
            figures["http"] = await measure_http(installation, options, server=bool(url))
            figures["latency_ms"] = figures["http"]["latency_ms"]
    return figures


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--requests", type=int, default=15_000, help="single messages in each turn")
    parser.add_argument("--warm", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLD)  # as in all of our processes
    figures = uvloop.run(measure(options))
    report(f"path on {figures['broker']}", lines(figures, bare_client(options.broker)), figures, options.json)


if __name__ == "__main__":
    main()
