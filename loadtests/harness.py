"""Shared by the benchmarks: models, parts as processes, and the measurement of their CPU time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import uuid4

import psutil
from prometheus_client.parser import text_string_to_metric_families as families

from broker.base import Broker, Since
from broker.protocol.ids import now_us
from broker.records.status import Announcement, read_status
from deploy.wiring import Installation

CHANNELS = 64
CONVOLUTIONS = 6
MAX_BATCH = {"mlp": 256, "heavy": 32}
CONFIG = """\
name: "{name}"
backend: "pytorch"
max_batch_size: {batch}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 10 ] }} ]
"""
START_WITHIN_S = 90.0


def write_models(root: Path) -> None:
    """Write two models: a small MLP 64-256-256-10, and a convolutional network with 5 ms for a batch of 32."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    deep: list[Any] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, CHANNELS, 3, padding=1), nn.ReLU()]
    for _ in range(CONVOLUTIONS):
        deep += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
    heavy = nn.Sequential(*deep, nn.Flatten(), nn.Linear(64 * CHANNELS, 10))
    for name, module in (("mlp", small), ("heavy", heavy)):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(module.eval(), torch.zeros(2, 64)).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
        (root / name / "config.pbtxt").write_text(CONFIG.format(name=name, batch=MAX_BATCH[name]))


def write_settings(folder: Path, url: str, http_port: int) -> Installation:
    """Write the settings of an installation with a new prefix; an empty URL means the embedded broker."""
    broker = f"broker: {{url: '{url}'}}\n" if url else ""
    (folder / "millrace.yaml").write_text(
        f"prefix: bench{uuid4().hex[:8]}.\n{broker}gateway: {{http_port: {http_port}}}\nmetrics: {{port: 0}}\n", "utf-8"
    )
    return Installation.at(folder / "millrace.yaml")


@contextmanager
def processes(commands: list[list[str]], log: Path) -> Iterator[list[psutil.Process]]:
    """Run commands in parallel within the block, and stop them afterwards."""
    with log.open("ab") as out:
        running = [subprocess.Popen(command, stdout=out, stderr=out) for command in commands]
    try:
        yield [psutil.Process(process.pid) for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


async def wait_for_replica(broker: Broker, process: psutil.Process) -> Announcement:
    """Wait until the replica `process` is ready, and return its announcement."""
    await broker.declare(broker.channels.status)
    reader = broker.read(broker.channels.status, Since(now_us() - 10_000_000))
    async with asyncio.timeout(START_WITHIN_S):
        while True:
            for record in await reader.read(100):
                announcement = read_status(record)
                if announcement and announcement.pid == process.pid and announcement.state == "ready":
                    await reader.close()
                    return announcement


@dataclass(frozen=True, slots=True)
class ReplicaCounters:
    """The number and the total seconds of a replica's model calls, from its `/metrics`."""

    calls: float
    seconds: float

    @classmethod
    def by(cls, replica: Announcement) -> ReplicaCounters:
        """Read the present counters of a replica."""
        with urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=10) as page:
            found = {one.name: one.value for family in families(page.read().decode()) for one in family.samples}
        name = "millrace_processor_compute_seconds"
        return cls(found[f"{name}_count"], found[f"{name}_sum"])


def run_json(command: list[str]) -> dict[str, Any]:
    """Run a Python command to its end and parse the last line of its output as JSON."""
    done = subprocess.run([sys.executable, "-P", *command], check=True, capture_output=True, text=True, timeout=300)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Cost:
    """The CPU time of named groups of processes since the construction."""

    def __init__(self, named: Mapping[str, Callable[[], list[psutil.Process]]]) -> None:
        self._named = named
        self._before = self._read()
        self._began = time.perf_counter()

    def us_each(self, requests: int) -> dict[str, float]:
        """The CPU time of each group divided by a number of requests, in microseconds."""
        after = self._read()
        return {name: (after[name] - self._before[name]) / requests * 1e6 for name in after}

    def _read(self) -> dict[str, float]:
        return {name: sum(map(_cpu_s, find())) for name, find in self._named.items()}


def server_processes(url: str) -> list[psutil.Process]:
    """The processes on this computer that listen on the port of `url`; none if the broker is elsewhere."""
    port = urlsplit(url).port
    found = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
        and connection.pid
    }
    return [psutil.Process(pid) for pid in found]


def with_children(process: psutil.Process) -> list[psutil.Process]:
    """A process and all of its descendants."""
    return [process, *process.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
