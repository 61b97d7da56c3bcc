"""A model of about 5 ms a call behind its queue, beside the same model alone.

By turns, and each turn in fresh processes on both sides: how fast a process computes a convolution depends on which
memory it was given, by more than 10 %, for as long as it lives.
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
class HeavyTurn:
    """What one replica did: rows a second, the share of the time in the model, and the milliseconds of a call."""

    rate: float
    in_model: float
    call_ms: float


def alone(folder: Path) -> float:
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


async def queued(place: Installation, warm: int, requests: int) -> HeavyTurn:
    """Start a replica, warm it, and send it `requests`."""
    with processes([place.part_command("replica", "heavy", "1")], place.path.parent / "log") as running:
        async with place.broker() as broker:
            replica = await wait_for_replica(broker, running[0])
        await bundled(place, "heavy", warm, IN_FLIGHT)
        before = ReplicaCounters.by(replica)
        rate = await bundled(place, "heavy", requests, IN_FLIGHT)
        after = ReplicaCounters.by(replica)
    seconds = after.seconds - before.seconds
    return HeavyTurn(rate, seconds * rate / requests, 1e3 * seconds / (after.calls - before.calls))


async def measure_heavy(place: Installation, *, repeat: int, warm: int, requests: int) -> dict[str, Any]:
    """Return medians over the turns, and the lowest and highest ratio within a turn."""
    bare, ours = [], []
    for _ in range(repeat):
        bare.append(await asyncio.to_thread(alone, place.path.parent))
        ours.append(await queued(place, warm, requests))
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
