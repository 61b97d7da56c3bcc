"""Compares a compute-bound model (5 ms for each call) behind its queue with the same model alone.

Both are measured in alternating turns, each in fresh processes: the memory that a process gets changes the speed of its
convolutions by more than 10 %, for its whole life.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from deploy.wiring import Installation
from loadtests.harness import ReplicaCounters, processes, run_json, wait_for_replica
from loadtests.queue_client import bundled

IN_FLIGHT = 1024
BATCH = 32


@dataclass(frozen=True, slots=True)
class ComputeBoundTurn:
    """The figures of one replica: rows per second, the share of time in the model, and the milliseconds of a call."""

    rate: float
    in_model: float
    call_ms: float


def alone(folder: Path) -> float:
    """Measure the rows per second of the model alone, with batches of 32 on one thread."""
    code = (
        "import sys, time, json, torch; torch.set_num_threads(1); m = torch.jit.load(sys.argv[1])\n"
        "x = torch.rand(32, 64)\n"
        "with torch.inference_mode():\n"
        "    [m(x) for _ in range(20)]; t = time.perf_counter(); n = 0\n"
        "    while time.perf_counter() - t < 4: m(x); n += 1\n"
        "print(json.dumps({'rate': 32 * n / (time.perf_counter() - t), 'ms': (time.perf_counter() - t) / n * 1e3}))"
    )
    return float(run_json(["-W", "ignore", "-c", code, str(folder / "models/heavy/1/model.pt")])["rate"])


async def queued(installation: Installation, warm: int, requests: int) -> ComputeBoundTurn:
    """Start a replica, send `warm` requests, and measure `requests` more."""
    with processes([installation.part_command("replica", "heavy", "1")], installation.path.parent / "log") as running:
        async with installation.broker() as broker:
            replica = await wait_for_replica(broker, running[0])
        await bundled(installation, "heavy", warm, IN_FLIGHT)
        before = ReplicaCounters.by(replica)
        rate = await bundled(installation, "heavy", requests, IN_FLIGHT)
        after = ReplicaCounters.by(replica)
    seconds = after.seconds - before.seconds
    return ComputeBoundTurn(rate, seconds * rate / requests, 1e3 * seconds / (after.calls - before.calls))


async def measure_compute_bound(installation: Installation, *, repeat: int, warm: int, requests: int) -> dict[str, Any]:
    """Measure all turns; returns medians over them, and the lowest and highest ratio within a turn."""
    bare, ours = [], []
    for _ in range(repeat):
        bare.append(await asyncio.to_thread(alone, installation.path.parent))
        ours.append(await queued(installation, warm, requests))
    ratios = [turn.rate / rate for turn, rate in zip(ours, bare, strict=True)]
    rate, bare_rate = median(turn.rate for turn in ours), median(bare)
    return {
        "rate": rate,
        "bare_rate": bare_rate,
        "ratio": rate / bare_rate,
        "ratios": [min(ratios), max(ratios)],
        "in_model": median(turn.in_model for turn in ours),
        "call_ms": median(turn.call_ms for turn in ours),
        "bare_call_ms": 1e3 * BATCH / bare_rate,
    }
