"""Commands that run parts: `up` for all of them, and one command for each."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Annotated

import typer
import uvloop

from broker.errors import Misconfigured, TryAgain
from broker.support.tasks import Tasks
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    SettingsPath,
    console,
    errors,
    missing_settings_text,
    overrides,
    read_installation,
)
from deploy.hosts import host_and_port
from deploy.mains import run_installed_part
from deploy.processes.shell import stop_on_signals, write_logs
from deploy.supervision.readiness import wait_until_served
from deploy.supervision.supervisor import Supervisor
from deploy.wiring import PARTS, Installation

READY_WITHIN_S = 180.0
AGAIN_S = 5.0

HttpPort = Annotated[int, typer.Option("--http-port", help="The port for HTTP, instead of gateway.http_port.")]
Engine = Annotated[str, typer.Option("--engine", help="process or ray, instead of processors.engine.")]

DOES = {
    "gateway": "Serve HTTP (Open Inference Protocol) and publish requests to the queues.",
    "router": "Take requests of queue clients and send each to an arm.",
    "learner": "Learn from rows and feedback, and publish the arms' weights.",
    "processors": "Watch the model repository and run a replica of each model version.",
    "monitors": "Read the event logs and serve Prometheus metrics on metrics.port.",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: MILLRACE__BROKER__URL=amqp://localhost millrace up")(up)
    for part in PARTS:
        app.command(part, help=DOES[part], epilog=f"Example: millrace {part} --settings millrace.yaml")(
            _part_command(part)
        )


def up(
    settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", http_port: HttpPort = 0, engine: Engine = ""
) -> None:
    """Run all parts on this machine until Ctrl-C; a part that dies is restarted."""
    flags = overrides(broker__url=broker, gateway__http_port=http_port, processors__engine=engine)
    if not settings.exists() and settings != DEFAULT_SETTINGS:
        raise Misconfigured(missing_settings_text(settings))
    installation = read_installation(settings, flags)
    write_logs("up")
    uvloop.run(run_up(installation, flags))


async def run_up(installation: Installation, flags: dict[str, str]) -> None:
    """Supervise all parts until a signal, and print when the installation is ready."""
    stop = stop_on_signals()
    supervisor = Supervisor(installation, flags)
    messages = Tasks()
    messages.spawn(_print_ready(installation, supervisor, stop), "ready")
    messages.spawn(_print_stopping(stop), "stopping")
    try:
        await supervisor.run(stop)
    finally:
        await messages.cancel()
    console.print("stopped")


async def _print_stopping(stop: asyncio.Event) -> None:
    await stop.wait()
    console.print("stopping: gateway, router, processors, learner, monitors; each finishes its work in hand")


async def _print_ready(installation: Installation, supervisor: Supervisor, stop: asyncio.Event) -> None:
    gateway, metrics = installation.settings.gateway, installation.settings.metrics
    await supervisor.begun.wait()  # if the broker refuses at once, the supervisor ends and prints the error
    problems = await _until_served(installation, supervisor, stop)
    if stop.is_set():
        return
    supervisor.was_ready = True
    for problem in problems:
        errors.print(f"[yellow]not served:[/] {problem}", highlight=False)
    console.print(
        f"[green]ready[/]   http://{host_and_port(gateway.host, gateway.http_port)}   docs at /docs, Ctrl-C stops"
    )
    console.print(
        f"metrics  http://{host_and_port(metrics.host, metrics.port)}/metrics, every other process at /targets"
    )
    console.print(f"models   {installation.settings.repository_folder}")
    for child in supervisor.children.values():
        console.print(f"{child.part:11}pid {child.process.pid if child.process else '-'}")


async def _until_served(installation: Installation, supervisor: Supervisor, stop: asyncio.Event) -> list[str]:
    """Wait without a time limit until the installation is ready; print every 180 s which parts and models are missing.

    Returns the problems: models and arms that are not served.
    """
    while not stop.is_set():
        try:
            return await wait_until_served(installation, supervisor, READY_WITHIN_S, lambda: not stop.is_set())
        except TryAgain as exc:  # running parts go on: a model may be repaired and the broker may come back
            errors.print(f"[yellow]not ready:[/] {exc}", highlight=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), AGAIN_S)
    return []


def _part_command(part: str) -> Callable[..., None]:
    def command(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "") -> None:
        if not settings.exists() and settings != DEFAULT_SETTINGS:
            raise Misconfigured(missing_settings_text(settings))
        installation = read_installation(settings, overrides(broker__url=broker))
        sys.exit(run_installed_part(installation, part, parent=None))

    return command
