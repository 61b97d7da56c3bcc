"""Checks that the first request after the first `ready` is answered.

Each start runs `millrace up` in a fresh folder with its own channels, and sends one request as soon as
`/v2/health/ready` answers 200. Prints `N of 20`; the exit status is 1 unless all requests were answered with 200.

    python -m loadtests.cold --broker amqp://guest:guest@localhost [--starts 20]
"""

from __future__ import annotations

import argparse
import http.client
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import uvloop

from broker.channels import Channels
from broker.connect import connect
from broker.support.database import Database, Durability, Schema, fetch_one
from deploy.hosts import free_port
from deploy.project import write_project
from deploy.settings import child_environment
from loadtests.report import console

READY_WITHIN_S = 60.0
STOPS_WITHIN_S = 60.0
EVERY_S = 0.005
REQUEST = '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'


def main() -> int:
    """Run all starts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="", help="amqp://… or kafka://…; by default the embedded broker")
    parser.add_argument("--starts", type=int, default=20)
    options = parser.parse_args()
    answered = 0
    for number in range(1, options.starts + 1):
        result = start_once(options.broker)
        answered += result.startswith("200")
        console.print(f"start {number}: {result}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{answered} of {options.starts}", highlight=False)
    return 0 if answered == options.starts else 1


def start_once(url: str) -> str:
    """Start an installation, send one request when it is ready, and remove it.

    Returns the status of the answer and the time to readiness, or an error.
    """
    channels, port = Channels(f"cold{uuid4().hex[:8]}."), free_port()
    with tempfile.TemporaryDirectory(prefix="millrace-cold-") as folder:
        shop = Path(folder) / "shop"
        write_project(shop)
        settings = {"prefix": channels.prefix, "gateway.http_port": str(port), "metrics.port": "0"}
        if url:
            settings["broker.url"] = url
        try:
            with _up(shop, settings) as process:
                return _first_answer(process, port)
        finally:
            results = shop / "data/results.db"
            if url:
                uvloop.run(_remove(url, channels, results if results.exists() else None))


@contextmanager
def _up(shop: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run `millrace up` in a folder within the block; its output goes to a file there."""
    command = [sys.executable, "-P", "-m", "deploy.cli", "up"]
    with (shop / "up.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=shop, env=child_environment(settings, {}), stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(STOPS_WITHIN_S)


def _first_answer(process: subprocess.Popen[bytes], port: int) -> str:
    """Return the status of the first request after the first `ready`, or the reason why there was none."""
    began = time.monotonic()
    while _ask(port, "GET", "/v2/health/ready")[0] != 200:
        if process.poll() is not None or time.monotonic() - began > READY_WITHIN_S:
            return f"never ready: {READY_WITHIN_S:.0f} s are over, or the installation has ended"
        time.sleep(EVERY_S)
    ready_s = time.monotonic() - began
    status, body = _ask(port, "POST", "/v2/models/hello/infer", REQUEST)
    return f"{status}, ready after {ready_s:.1f} s{'' if status == 200 else ': ' + body[:200]}"


def _ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """Return the status and the body of an answer; status 0 and the error if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        return 0, str(exc)
    finally:
        connection.close()


async def _remove(url: str, channels: Channels, results: Path | None) -> None:
    """Delete the channels of one start from a server."""
    inputs = channels.inputs("hello", 1)
    made = [inputs, channels.retry(inputs), channels.requests("hello"), channels.results("hello")]
    made += [channels.events("hello"), channels.declared, channels.status, f"{channels.prefix}limits"]
    if results is not None:
        made.append(channels.stored(await _identity(results)))
    async with connect(url, Channels("cold.")) as broker:  # another prefix: this connection follows no deleted channel
        for channel in made:
            await broker.delete(channel)


async def _identity(results: Path) -> str:
    """Read the identity of a results store."""
    database = Database(results, Schema(whose="the results store", setting="data", version=1, tables=""))
    await database.open()
    found = await database.run(lambda connection: fetch_one(connection, "SELECT identity FROM store"), Durability.READ)
    await database.close()
    return str(found[0])


if __name__ == "__main__":
    sys.exit(main())
