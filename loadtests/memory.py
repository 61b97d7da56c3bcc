"""Measures the memory of every process under load by HTTP: its growth over many requests after a warm-up.

python -m loadtests.memory --broker amqp://guest:guest@127.0.0.1:25672/ [--json memory.json]
python -m loadtests.memory --broker sqlite:////tmp/unused.db
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import psutil
import uvloop

from deploy.hosts import free_port
from deploy.supervision.supervisor import wait_until_ready
from loadtests.front import closed_loop
from loadtests.harness import processes, with_children, write_models, write_settings
from loadtests.path import wait_for_model
from loadtests.queue_client import body
from loadtests.report import report

PARTS = ("gateway", "router", "monitors", "processors")
CONNECTIONS = 64
SLICE_S = 2.0


async def send(port: int, requests: int) -> int:
    """Send requests until at least `requests` are answered; returns the number of answers."""
    data, json_length = body()
    answered = 0
    while answered < requests:
        load = await closed_loop(
            port, "/v2/models/mlp/infer", data, json_length, connections=CONNECTIONS, seconds=SLICE_S
        )
        answered += len(load.latencies_s)
    return answered


def memory_kib(running: list[psutil.Process]) -> dict[str, int]:
    """The resident memory of each part, and of the catalog's replica, in KiB."""
    found = {}
    for part, process in zip(PARTS, running, strict=True):
        found[part] = process.memory_info().rss >> 10
        for child in with_children(process)[1:]:
            found["replica"] = child.memory_info().rss >> 10
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Warm up, send the requests, and return the growth."""
    url = "" if options.broker.startswith("sqlite") else options.broker
    with tempfile.TemporaryDirectory(prefix="millrace-memory-") as name:
        folder = Path(name)
        await asyncio.to_thread(write_models, folder / "models")
        (folder / "models" / "heavy").rename(folder / "heavy-away")
        installation = write_settings(folder, url, free_port())
        port = installation.settings.gateway.http_port
        with processes([installation.part_command(part) for part in PARTS], folder / "log") as running:
            await wait_until_ready(port, "127.0.0.1", 90.0, lambda: True)
            await wait_for_model(port)
            await send(port, options.warm)
            before = memory_kib(running)
            answered = await send(port, options.requests)
            after = memory_kib(running)
    growth = {part: round((after[part] - before[part]) / 1024, 2) for part in after}
    return {
        "broker": options.broker.split("@")[-1],
        "requests": answered,
        "before_kib": before,
        "after_kib": after,
        "growth_mib": growth,
    }


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--warm", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = uvloop.run(measure(options))
    rows = [
        (part, f"{kib / 1024:.0f} MiB, grew by {figures['growth_mib'][part]:.2f} MiB")
        for part, kib in figures["after_kib"].items()
    ]
    report(f"memory over {figures['requests']:,} requests on {figures['broker']}", rows, figures, options.json)


if __name__ == "__main__":
    main()
