"""`millrace queues check | migrate`: queues that exist with other arguments than the settings give."""

from __future__ import annotations

import sys

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from broker.base import Broker
from broker.errors import Refused, Unavailable
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    Yes,
    confirm,
    console,
    errors,
    overrides,
    show,
    started_installation,
    warn,
    with_broker,
)
from deploy.operations.queues import DifferingQueue, check_stopped, find_differing, migrate

app = typer.Typer(
    help="Find and migrate queues whose limits differ from the settings.",
    epilog="Example: millrace queues check",
    no_args_is_help=True,
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="queues")


@app.command(epilog="Example: millrace queues check --json")
def check(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show the queues whose limits differ from the settings. They work as they are; exit status 1 if there are any."""
    installation = started_installation(settings, overrides(broker__url=broker))

    async def read(connection: Broker) -> list[DifferingQueue]:
        return await find_differing(connection, installation.settings.repository_folder, installation.queue_limits())

    found = with_broker(installation, read)
    show([{"queue": one.queue, "differs": one.how} for one in found], ("queue", "differs"), as_json=as_json)
    sys.exit(1 if found else 0)


@app.command("migrate", epilog="Example: millrace queues migrate --yes")
def migrate_all(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", yes: Yes = False) -> None:
    """Recreate queues with the limits of the settings, and keep their messages.

    First stop the installation and the clients that publish to `requests.*`: messages that they publish while a queue
    is recreated could be lost. An event log stays as it is, because its records cannot be moved.
    """
    installation = started_installation(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> int:
        found = await find_differing(connection, installation.settings.repository_folder, installation.queue_limits())
        logs = [one for one in found if one.is_log]
        queues = [one for one in found if not one.is_log]
        warn(
            f"{one.queue} stays as it is ({one.how}): a log cannot be moved; delete it and it is created again"
            for one in logs
        )
        if not queues:
            console.print("the limits of every queue equal the settings")
            return 0
        await check_stopped(connection)
        if not confirm(f"recreate {len(queues)} queues, with their messages", yes=yes):
            return 1
        lost, refused = 0, []
        for one in queues:
            try:
                lost += await _migrate(connection, one)
            except (Refused, Unavailable) as exc:  # the other queues can still be migrated
                refused.append(str(exc))
        warn(refused)
        return lost + len(refused)

    sys.exit(1 if with_broker(installation, work) else 0)


async def _migrate(connection: Broker, differing: DifferingQueue) -> int:
    """Migrate one queue and show the progress; returns how many messages were lost."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=errors, transient=True) as progress:
        task = progress.add_task(differing.queue)
        moves = 0

        def moved(number: int) -> None:
            nonlocal moves
            moves += number
            progress.update(task, description=f"{differing.queue}: {moves} moves")

        lost = await migrate(connection, differing, moved)
    console.print(f"{differing.queue}: {differing.how}: done, {moves // 2} messages kept, {lost} lost")
    return lost
