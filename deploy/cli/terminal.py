"""Shared by all commands: consoles, common options, access to the installation, and printing."""

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
    str, typer.Option("--broker", help="The broker's URL, instead of broker.url: sqlite:///… or amqp://…")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
EndpointName = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DEFAULT_SETTINGS = Path(FILE)


def overrides(**flags: Any) -> dict[str, str]:
    """Return the flags that were given, by dotted key: `broker__url` stands for broker.url."""
    return {name.replace("__", "."): str(value) for name, value in flags.items() if value not in (None, "", 0)}


def read_installation(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Read the settings; flags override them."""
    return Installation.at(settings, dict(flags))


def existing_installation(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Read the settings of an existing installation.

    Raises Misconfigured if the settings file does not exist. The default file may be missing if a flag or an
    environment variable names the broker.
    """
    installation = read_installation(settings, flags)
    if settings.exists() or (settings == DEFAULT_SETTINGS and installation.settings.broker.url.get_secret_value()):
        return installation
    raise Misconfigured(missing_settings_text(settings))


def missing_settings_text(settings: Path) -> str:
    """Write the error text for missing settings."""
    if settings != DEFAULT_SETTINGS:
        return f"there is no {settings}: is --settings (or MILLRACE_SETTINGS) right?"
    return f"there is no {settings} in {Path.cwd()}: run this in the project's folder, or add --settings PATH"


def started_installation(settings: Path, flags: Mapping[str, str]) -> Installation:
    """Return an installation whose broker exists; raises Unavailable if its embedded broker has no file yet.

    Opening the embedded broker would create the file.
    """
    installation = existing_installation(settings, flags)
    if reason := not_started_text(installation):
        raise Unavailable(reason)
    return installation


def not_started_text(installation: Installation) -> str:
    """Write the error text for an embedded broker without a file; empty for any other installation."""
    file = installation.settings.embedded_file
    if file is None or file.exists():
        return ""
    return f"nothing has run here yet: there is no {file}, which `millrace up` creates"


def read_list(installation: Installation, work: Callable[[Broker], Awaitable[list[T]]]) -> list[T]:
    """Read a list from the installation's broker; warn and return an empty one if no part has run yet."""
    if reason := not_started_text(installation):
        warn([reason])
        return []
    return with_broker(installation, work)


def with_broker(installation: Installation, work: Callable[[Broker], Awaitable[T]]) -> T:
    """Run `work` with the installation's broker, and return its result."""

    async def run() -> T:
        async with installation.broker() as connection:
            return await work(connection)

    return uvloop.run(run())


def confirm(what: str, *, yes: bool) -> bool:
    """Return True if the user confirms; raises Misconfigured if there is no terminal to ask on."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}? there is no terminal to ask on: add --yes")
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
    """Print warnings to standard error."""
    for note in notes:
        errors.print(f"[yellow]warning:[/] {escape(note)}", highlight=False, soft_wrap=True)
