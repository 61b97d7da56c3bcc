"""`millrace demo`: train, serve, ask, check, and say what happened."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from deploy.demo.digits import Digits, load
from deploy.demo.folder import ENDPOINT, write_models, write_settings
from deploy.demo.next_steps import print_next_steps
from deploy.demo.progress import Steps
from deploy.demo.show import Show
from deploy.demo.train import ARMS, EPOCHS, train
from deploy.shell import stop_on_signals, write_logs
from deploy.supervisor import Supervisor
from deploy.wiring import Installation

HOST = "127.0.0.1"
HTTP_PORT = 8000  # Triton's ports
METRICS_PORT = 8002
LOG_LINES = 40
FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one demonstration runs."""

    installation: Installation
    overrides: dict[str, str]
    log: Path


def run_demo(*, broker: str, serve: bool, engine: str, requests: int) -> int:
    """Run the demonstration in a fresh folder; returns 0 only if every request was answered exactly once."""
    console = Console()
    with _folder(keep=serve) as folder:
        place = _place(folder, broker=broker, serve=serve, engine=engine)
        steps = Steps(console)
        digits = _train_into(folder, steps).take(requests)
        status = FAILED
        try:
            status = uvloop.run(_run(place, Show(console, steps, place.installation, digits), serve=serve))
        finally:
            if status:
                _print_log(console, place.log)
        return status


async def _run(place: Place, show: Show, *, serve: bool) -> int:
    stop = stop_on_signals()
    with place.log.open("a") as log:
        write_logs("demo", log)
        supervisor = Supervisor(place.installation, place.overrides, output=log)
        running = asyncio.create_task(supervisor.run(stop), name="supervisor")
        try:
            status = await _while(running, show.run())
            if serve and not stop.is_set():
                print_next_steps(show.console, place.installation, place.overrides.get("broker.url", ""))
                await running
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)
            if not serve:
                await _clean(place.installation)
    return status


async def _while(running: asyncio.Task[None], work: Coroutine[Any, Any, int]) -> int:
    """Return what `work` returns; when `running` ends first, raise why, or fail because somebody pressed Ctrl-C."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, running), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await running
    return FAILED


async def _clean(installation: Installation) -> None:
    """Remove what the demonstration left on a broker that others use too; the embedded one goes with the folder."""
    if installation.settings.broker_url.startswith("sqlite:"):
        return
    async with installation.broker() as broker:
        channels = broker.channels
        inputs = [channels.inputs(model, 1) for model in ARMS]
        ends = [channels.requests(ENDPOINT), channels.results(ENDPOINT), channels.events(ENDPOINT)]
        ends += [channels.events(model) for model in ARMS] + [channels.requests(model) for model in ARMS]
        ends += [channels.results(model) for model in ARMS]
        for channel in (*inputs, *map(channels.retry, inputs), *ends, channels.declared, channels.status):
            await broker.delete(channel)


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _place(folder: Path, *, broker: str, serve: bool, engine: str) -> Place:
    """Write the settings. What the demonstration depends on is given as flags too, so that no variable changes it."""
    prefix = "millrace.demo." if serve else f"millrace.demo-{secrets.token_hex(3)}."
    http_port, metrics_port = (HTTP_PORT, METRICS_PORT) if serve else (_free_port(), 0)
    path = write_settings(folder, prefix=prefix, engine=engine, http_port=http_port, metrics_port=metrics_port)
    overrides = {
        "processors.engine": engine, "gateway.http_port": str(http_port), "metrics.port": str(metrics_port),
        "gateway.host": HOST,
    }  # fmt: skip
    if broker:
        overrides["broker.url"] = broker
    return Place(installation=Installation.at(path, overrides), overrides=overrides, log=folder / "demo.log")


def _train_into(folder: Path, steps: Steps) -> Digits:
    """Publish the trained models, and return the digits that are held out."""
    learn, held_out = load()
    models = {}
    for arm, make in ARMS.items():
        with steps.step(f"training {arm} on {len(learn.labels)} digits", EPOCHS) as advance:
            models[arm] = train(make, learn, lambda advance=advance: advance(1))  # type: ignore[misc]
    write_models(folder, models)
    return held_out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _print_log(console: Console, log: Path) -> None:
    if not log.exists():
        return
    with log.open(errors="replace") as lines:
        tail = list(deque(lines, LOG_LINES))
    console.print(f"\nthe last {len(tail)} lines of the processes' log:", highlight=False)
    console.print("".join(tail), markup=False, highlight=False, soft_wrap=True)
