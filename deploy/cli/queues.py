"""`millrace queues`: queues that are there with other arguments than the settings say: `check`, `migrate`."""

from __future__ import annotations

import sys

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from broker.base import Broker
from broker.errors import Refused
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    Yes,
    confirmed,
    connected,
    console,
    errors,
    looked_at,
    overrides,
    show,
    warn,
)
from deploy.operations.queues import DifferingQueue, check_stopped, find_differing, migrate

app = typer.Typer(
    help="Queues that are there with other arguments than the settings say.",
    epilog="Example: millrace queues check",
    no_args_is_help=True,
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="queues")


@app.command(epilog="Example: millrace queues check --json")
def check(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", as_json: Json = False) -> None:
    """Show which queues have other limits than the settings say: exit status 1 if any has. They serve as they are."""
    place = looked_at(settings, overrides(broker__url=broker))

    async def look(connection: Broker) -> list[DifferingQueue]:
        return await find_differing(connection, place.settings.repository_folder, place.queue_limits())

    found = connected(place, look)
    show([{"queue": one.queue, "differs": one.how} for one in found], ("queue", "differs"), as_json=as_json)
    sys.exit(1 if found else 0)


@app.command("migrate", epilog="Example: millrace queues migrate --yes")
def migrate_all(settings: SettingsPath = DEFAULT_SETTINGS, broker: BrokerUrl = "", yes: Yes = False) -> None:
    """Give queues the limits that the settings say, with all their messages.

    Stop the installation first, and clients that publish to `requests.*`: what they publish while a queue is made
    again could be lost. An event log keeps what it was made with: its records cannot move.
    """
    place = looked_at(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> int:
        found = await find_differing(connection, place.settings.repository_folder, place.queue_limits())
        logs = [one for one in found if one.is_log]
        queues = [one for one in found if not one.is_log]
        warn(
            f"{one.queue} stays as it is ({one.how}): a log cannot move; delete it to have it made anew" for one in logs
        )
        if not queues:
            console.print("every queue is as the settings say")
            return 0
        await check_stopped(connection)
        if not confirmed(f"make {len(queues)} queues again, with their messages", yes=yes):
            return 1
        lost, refused = 0, []
        for one in queues:
            try:
                lost += await _migrate(connection, one)
            except Refused as exc:  # the others can go on
                refused.append(str(exc))
        warn(refused)
        return lost + len(refused)

    sys.exit(1 if connected(place, work) else 0)


async def _migrate(connection: Broker, differing: DifferingQueue) -> int:
    """Migrate one queue, with its progress; returns how many messages were lost."""
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
