"""The whole path: queue, batch, model, reply queue, beside the broker's own limit; then HTTP in front of it.

    python -m loadtests.path --broker amqp://guest:guest@127.0.0.1:25672/ [--json path.json]
    python -m loadtests.path --broker kafka://127.0.0.1:29092
    python -m loadtests.path --broker sqlite:////tmp/path.db

In one run, by turns. `small`: single messages through the real processor against the broker's bare client around the
same model: pika on RabbitMQ, aiokafka on Kafka, none on SQLite and over TLS on Kafka. `bundled`: the same requests in
bundles, against the single ones. `heavy`: a model of about 5 ms a call against the bare model at batch 32. `http`: 64
connections, then 50 requests a second. One torch thread everywhere.
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

import numpy as np
import orjson
import psutil
import uvloop

from broker.base import Broker
from broker.bundle import answers_in, single
from broker.header import Form, Reply, Request, Route, Status, pack_route, pack_ticket
from broker.ids import now_us
from broker.messages import Outcome
from broker.outbox import Outbox
from broker.status import Announcement
from deploy.shell import GC_THRESHOLD
from deploy.supervisor import wait_until_ready
from deploy.wiring import Installation
from loadtests.front import closed_loop, open_loop
from loadtests.report import quantile, report
from loadtests.rig import (
    MAX_BATCH,
    Computed,
    Cost,
    free_port,
    processes,
    run_json,
    server_processes,
    wait_for_replica,
    with_children,
    write_models,
    write_settings,
)

IN_FLIGHT = 8192
WINDOW = 2048  # of single messages: more gains neither side anything
HEAVY_IN_FLIGHT = 1024
HEAVY_BATCH = 32
UID_AT_MARK = bytes(range(240, 256))
BARE = {"amqp": "pika", "amqps": "pika", "kafka": "aiokafka"}
BARE_MODULES = {"pika": "loadtests.bare.pika_path", "aiokafka": "loadtests.bare.kafka_path"}


def bare_client(url: str) -> str | None:
    """Return the library that the broker's limit is measured with."""
    return BARE.get(url.partition(":")[0])


def body() -> tuple[bytes, int]:
    """Return one row of 64 floats as JSON and raw tensor, and the length of the JSON."""
    head = {
        "inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": 256}}],
        "parameters": {"binary_data_output": True},
    }
    text = orjson.dumps(head)
    return text + np.random.default_rng(0).random(64, np.float32).tobytes(), len(text)


def route_to(model: str, reply: Reply, reply_to: str) -> Route:
    """Return the route of a model under its own name."""
    return Route(
        endpoint=model, arm="v1", model=model, version=1, policy="split", mask=1, reply=reply, reply_to=reply_to
    )


def request_on(route: Route, uid: bytes) -> Request:
    """Return a request with plenty of time."""
    data, json_length = body()
    now = now_us()
    return Request(route, uid, now, now + 600_000_000, 1.0, json_length, 0, "", "", "", b"", data)


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


class BundledClient:
    """What a gateway does, without its HTTP: bundles out by the outbox, bundles of answers back."""

    def __init__(self, broker: Broker, model: str) -> None:
        self._broker = broker
        self._queue = broker.channels.inputs(model, 1)
        self._replies = broker.channels.answers(f"bench-{model}")
        self._route = route_to(model, Reply.GATEWAY, self._replies)
        self._limit = MAX_BATCH[model]
        self._moved = asyncio.Event()
        self.answered = 0
        self.bad = 0

    async def run(self, requests: int, in_flight: int) -> float:
        """Send and await `requests`; returns the rate."""
        await self._broker.declare(self._replies)
        consumer = self._broker.consume(self._replies, 1000)
        outbox: Outbox[None] = Outbox(self._broker, self._settled)
        taking = asyncio.create_task(self._take(consumer, requests))
        template, shared = request_on(self._route, bytes(16)), pack_route(self._route)
        ticket, data = pack_ticket(template, len(template.body))[16:], template.body
        began, sent = time.perf_counter(), 0
        while sent < requests:
            while sent - self.answered > in_flight - self._limit:
                self._moved.clear()
                await self._moved.wait()
            many = min(self._limit, requests - sent)
            uids = [number.to_bytes(16, "big") for number in range(sent, sent + many)]
            items = [(uid + ticket, data, None) for uid in uids]
            outbox.put_all(self._queue, Form.BUNDLE, shared, items, limit=self._limit)
            sent += many
            await asyncio.sleep(0)
        await taking
        rate = requests / (time.perf_counter() - began)
        await consumer.stop()
        return rate

    async def _take(self, consumer: Any, requests: int) -> None:
        while self.answered < requests:
            deliveries = await consumer.take(1000)
            for delivery in deliveries:
                answers = answers_in(delivery.message)
                self.bad += sum(answer.status is not Status.OK for answer in answers)
                self.answered += len(answers)
            await self._broker.ack(deliveries)
            self._moved.set()

    def _settled(self, tokens: Any, outcome: Outcome) -> None:
        if not outcome.safe:
            self.bad += len(tokens)


async def bundled(place: Installation, model: str, requests: int, in_flight: int) -> float:
    """Return the rate of bundled requests; raises if any of them was not answered `ok`."""
    async with place.broker() as broker:
        client = BundledClient(broker, model)
        rate = await client.run(requests, in_flight)
        if client.bad:
            raise RuntimeError(f"{client.bad} of {requests} requests were not answered ok")
        return rate


def single_ours(place: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """Single messages of a plain client through the real processor."""
    reply = Plain(place).replies
    request = request_on(route_to("mlp", Reply.CLIENT, reply), UID_AT_MARK)
    message = single(place.settings.channels.inputs("mlp", 1), request)
    return run_json(
        ["-m", BARE_MODULES[bare], "client", "--url", url, "--to", message.queue, "--reply", reply,
         "--messages", str(requests), "--window", str(WINDOW), "--header", b64encode(message.header).decode(), "--body",
         b64encode(message.body).decode(), "--uid-at", str(message.header.index(UID_AT_MARK))]
    )  # fmt: skip


def single_bare(place: Installation, url: str, bare: str, requests: int) -> dict[str, Any]:
    """The same from the bare processor."""
    plain = Plain(place)
    return run_json(
        ["-m", BARE_MODULES[bare], "client", "--url", url, "--to", plain.bare, "--reply", plain.bare_replies,
         "--messages", str(requests), "--window", str(WINDOW), "--body", b64encode(body()[0]).decode()]
    )  # fmt: skip


def bare_model_rate(folder: Path) -> float:
    """Return the rows a second of the heavy model alone, at batch 32 on one thread."""
    code = (
        "import sys, time, json, torch; torch.set_num_threads(1); m = torch.jit.load(sys.argv[1])\n"
        "x = torch.rand(32, 64)\n"
        "with torch.inference_mode():\n"
        "    [m(x) for _ in range(20)]; t = time.perf_counter(); n = 0\n"
        "    while time.perf_counter() - t < 4: m(x); n += 1\n"
        "print(json.dumps({'rate': 32 * n / (time.perf_counter() - t), 'ms': (time.perf_counter() - t) / n * 1e3}))"
    )
    return float(run_json(["-W", "ignore", "-c", code, str(folder / "models/heavy/1/model.pt")])["rate"])


async def measure_queue(place: Installation, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure small, bundled and heavy against one replica each."""
    figures: dict[str, Any] = {}
    folder, bare = place.path.parent, bare_client(url)
    commands = [place.part_command("replica", "mlp", "1")]
    if bare:
        commands.append(
            [sys.executable, "-W", "ignore", "-m", BARE_MODULES[bare], "processor", "--url", url, "--to",
             Plain(place).bare, "--model", str(folder / "models/mlp/1/model.pt")]
        )  # fmt: skip
    with processes(commands, folder / "log") as running:
        async with place.broker() as broker:
            await wait_for_replica(broker, "mlp")
        await bundled(place, "mlp", options.warm, IN_FLIGHT)
        rss = running[0].memory_info().rss
        figures["small"], figures["bundled"] = await _by_turns(place, url, options, running)
        figures["processor_rss_mib"] = {"before": rss >> 20, "after": running[0].memory_info().rss >> 20}
    with processes([place.part_command("replica", "heavy", "1")], folder / "log"):
        async with place.broker() as broker:
            replica = await wait_for_replica(broker, "heavy")
            await Plain(place).remove(broker)
        figures["heavy"] = await _heavy(place, folder, replica, options)
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


async def _heavy(
    place: Installation, folder: Path, replica: Announcement, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure the heavy model by turns; of ours also how much of the time it was in the model, and how long a call."""
    ours, bare, inside, calls_ms = [], [], [], []
    await bundled(place, "heavy", options.warm, HEAVY_IN_FLIGHT)
    for _ in range(options.repeat):
        bare.append(await asyncio.to_thread(bare_model_rate, folder))
        before = Computed.by(replica)
        ours.append(await bundled(place, "heavy", 2 * options.requests, HEAVY_IN_FLIGHT))
        after = Computed.by(replica)
        inside.append((after.seconds - before.seconds) * ours[-1] / (2 * options.requests))
        calls_ms.append(1e3 * (after.seconds - before.seconds) / (after.calls - before.calls))
    return {
        "rate": median(ours), "bare_rate": median(bare), "ratio": median(ours) / median(bare),
        "in_model": median(inside), "call_ms": median(calls_ms), "bare_call_ms": 1e3 * HEAVY_BATCH / median(bare),
    }  # fmt: skip


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
        "rate": len(busy.latencies_s) / busy.took_s, "connections": 64, "cpu_us": cpu, "rss_mib": rss,
        "errors": busy.errors + quiet.errors,
        "saturated_ms": {"p50": 1e3 * quantile(busy.latencies_s, 0.5), "p99": 1e3 * quantile(busy.latencies_s, 0.99)},
        "latency_ms": {"p50": 1e3 * quantile(quiet.latencies_s, 0.5), "p99": 1e3 * quantile(quiet.latencies_s, 0.99)},
    }  # fmt: skip


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
                f" alone {heavy['bare_call_ms']:.1f}",
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
    parser.add_argument("--only", nargs="+", choices=("queue", "http"), default=("queue", "http"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLD)  # as in every process of ours
    figures = uvloop.run(measure(options))
    report(f"path on {figures['broker']}", lines(figures, bare_client(options.broker)), figures, options.json)


if __name__ == "__main__":
    main()
