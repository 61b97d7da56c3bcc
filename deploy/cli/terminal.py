"""What all commands share: consoles, and the options that every command has."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from broker.base import Broker
from broker.errors import Misconfigured, Unavailable
from deploy.settings import FILE
from deploy.wiring import Installation

T = TypeVar("T")

console = Console()
errors = Console(stderr=True)

SettingsPath = Annotated[Path, typer.Option("--settings", "-s", help="The settings file.", envvar="MILLRACE_SETTINGS")]
BrokerUrl = Annotated[
    str, typer.Option("--broker", help="Where messages go, instead of broker.url: sqlite:///… or amqp://…")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]
EndpointName = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint, by its name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DEFAULT_SETTINGS = Path(FILE)


def overrides(**flags: Any) -> dict[str, str]:
    """Return the flags that were given, by dotted key: `broker__url` stands for broker.url."""
    return {name.replace("__", "."): str(value) for name, value in flags.items() if value not in (None, "", 0)}


def installation(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Read the settings, with flags over them."""
    return Installation.at(settings, dict(flags))


def existing(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Read the settings of an installation that is to be looked at or changed: it is never another one by mistake.

    Raises Misconfigured where there are no settings; the default ones do where a broker is named by flag or variable.
    """
    place = installation(settings, flags)
    if settings.exists() or (settings == DEFAULT_SETTINGS and place.settings.broker.url.get_secret_value()):
        return place
    raise Misconfigured(no_settings(settings))


def no_settings(settings: Path) -> str:
    """Return what is said where there are no settings."""
    if settings != DEFAULT_SETTINGS:
        return f"there is no {settings}: is --settings (or MILLRACE_SETTINGS) right?"
    return f"there is no {settings} in {Path.cwd()}: run this in the project's folder, or say --settings PATH"


def looked_at(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Return an installation to look at; raises Unavailable where nothing has run: opening makes a file."""
    place = existing(settings, flags)
    if said := never_ran(place):
        raise Unavailable(said)
    return place


def never_ran(place: Installation) -> str:
    """Return what is said of an installation that has no embedded broker yet; nothing for any other."""
    file = place.settings.embedded_file
    if file is None or file.exists():
        return ""
    return f"nothing has run here yet: there is no {file}, which `millrace up` makes"


def listed(place: Installation, work: Callable[[Broker], Awaitable[list[T]]]) -> list[T]:
    """Return a list that is read from the installation's broker; an empty one, and why, where nothing has run."""
    if said := never_ran(place):
        warn([said])
        return []
    return connected(place, work)


def connected(place: Installation, work: Callable[[Broker], Awaitable[T]]) -> T:
    """Do something with the installation's broker."""

    async def run() -> T:
        async with place.broker() as connection:
            return await work(connection)

    return uvloop.run(run())


def confirmed(what: str, *, yes: bool) -> bool:
    """Tell whether whoever asked for it wants it; raises Misconfigured where nobody is there to be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}? nobody is here to ask: say --yes")
    return typer.confirm(f"{what}?")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, title: str = "") -> None:
    """Print rows as a table, or as a JSON array."""
    if as_json:
        sys.stdout.write(json.dumps(list(rows), default=str) + "\n")
        return
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*[str(row.get(column, "")) for column in columns])
    console.print(table)


def warn(notes: Iterable[str]) -> None:
    """Print what a person should know, where no program reads it for the result."""
    for note in notes:
        errors.print(f"[yellow]warning:[/] {escape(note)}", highlight=False, soft_wrap=True)
