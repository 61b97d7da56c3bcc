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
from broker.errors import Misconfigured
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
