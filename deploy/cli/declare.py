"""Commands for settings and declarations: `init`, `check`, `schema`, `apply`, `withdraw`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from broker.connect import connect
from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    SettingsPath,
    confirm,
    console,
    errors,
    existing_installation,
    missing_settings_text,
    overrides,
    started_installation,
    warn,
)
from deploy.operations.inspection import left_out, withheld_arms
from deploy.operations.watch import Declarations, file_of, read_file, unread_files
from deploy.project import write_project
from deploy.settings import Settings, load_settings
from deploy.wiring import Installation
from router.declaration.schema import endpoint_schema
from router.declaration.slices import overlap


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: millrace init shop && cd shop && millrace up")(init)
    app.command(epilog="Example: millrace check endpoints/fraud.yaml")(check)
    app.command(epilog="Example: millrace schema > endpoint.schema.json")(schema)
    app.command(epilog="Example: millrace apply endpoints/fraud.yaml")(apply)
    app.command(epilog="Example: millrace withdraw fraud")(withdraw)


def init(folder: Annotated[Path, typer.Argument(help="The folder to create.")]) -> None:
    """Create a folder with settings and a hello model, ready for `millrace up`."""
    for path in write_project(folder):
        console.print(f"wrote {path}")
    console.print(f"next: cd {folder} && millrace up")


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Endpoint files; by default those of the settings")] = None,
    settings: SettingsPath = DEFAULT_SETTINGS,
) -> None:
    """Read settings, declarations and model configs, and explain mistakes; exit status 2 if there are any.

    With files, only these are read, beside the settings.
    """
    if not settings.exists() and (not files or settings != DEFAULT_SETTINGS):
        raise Misconfigured(missing_settings_text(settings))
    read = load_settings(settings)
    _say_settings(settings)
    paths = files or sorted(read.folder.glob(read.endpoints))
    mistakes, seen = _broker_mistakes(read), dict[str, tuple[Path, Endpoint]]()
    for path in paths:
        mistakes += _check_file(path, seen)
    mistakes += withheld_arms([endpoint for _, endpoint in seen.values()], read.repository_folder)
    if files:
        unread = [path for path in files if path.suffix == ".yml" and path.resolve().is_relative_to(read.folder)]
        warn([f"{path} is not read by `millrace up`: endpoints is {read.endpoints}" for path in unread])
    else:
        _print_line(f"{read.endpoints}: {len(paths)} file{'' if len(paths) == 1 else 's'} read in {read.folder}")
        models = left_out(read.repository_folder)
        mistakes += models.broken
        warn([*unread_files(read.folder, read.endpoints), *models.ignored])
    if mistakes:
        raise Misconfigured("\n".join(mistakes))


def _say_settings(settings: Path) -> None:
    _print_line(
        f"{settings}: the settings are fine" if settings.exists() else f"no {settings} here: the default settings hold"
    )


def _print_line(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _check_file(path: Path, seen: dict[str, tuple[Path, Endpoint]]) -> list[str]:
    """List the mistakes in the declarations of a file."""
    try:
        endpoints = read_file(path)
    except Misconfigured as exc:
        return [str(exc)]
    if not endpoints:
        warn([f"{path} declares nothing"])
    return [mistake for endpoint in endpoints for mistake in _check_endpoint(endpoint, path, seen)]


def schema() -> None:
    """Print the JSON Schema of an endpoint file, for completion and checks in an editor."""
    sys.stdout.write(json.dumps(endpoint_schema(), indent=2) + "\n")


def _broker_mistakes(settings: Settings) -> list[str]:
    """List the mistakes in the broker's address that can be found without connecting."""
    try:
        connect(settings.broker_url, settings.channels)
    except Misconfigured as exc:
        return [str(exc)]
    return []


def _check_endpoint(endpoint: Endpoint, path: Path, seen: dict[str, tuple[Path, Endpoint]]) -> list[str]:
    """List the conflicts of an endpoint with those in `seen`, and add it to them."""
    first, _ = seen.setdefault(endpoint.endpoint, (path, endpoint))
    if first != path:
        return [f"{path}: endpoint {endpoint.endpoint} is declared by {first.name} too"]
    others = [(where, other) for where, other in seen.values() if other.endpoint != endpoint.endpoint]
    mistakes = [f"{path} and {where.name}: {found}" for where, other in others if (found := overlap(endpoint, other))]
    if mistakes:
        return mistakes
    _print_line(f"{path}: endpoint {endpoint.endpoint} is fine ({len(endpoint.arms)} arms)")
    return []


def apply(
    files: Annotated[list[Path], typer.Argument(help="Declarations to publish.")],
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    author: Annotated[str, typer.Option(help="The author in the record of the declaration.")] = "millrace apply",
) -> None:
    """Publish declarations; all parts follow at once, without a restart."""
    endpoints = _declared_by(files)
    installation = existing_installation(settings, overrides(broker__url=broker))

    async def publish() -> None:
        async with installation.broker() as connection:
            declarations = Declarations(connection)
            await declarations.read()
            for endpoint in endpoints:
                changed = await declarations.apply(endpoint, author)
                console.print(f"endpoint {endpoint.endpoint}: {'declared' if changed else 'unchanged'}")

    uvloop.run(publish())


def _declared_by(files: list[Path]) -> list[Endpoint]:
    """Read declarations; raises Misconfigured for a file without any, and for an endpoint in two files."""
    owners, endpoints = dict[str, Path](), list[Endpoint]()
    for path in files:
        found = read_file(path)
        if not found:
            raise Misconfigured(f"{path} declares nothing")
        for endpoint in found:
            if owners.setdefault(endpoint.endpoint, path) != path:
                other = owners[endpoint.endpoint].name
                raise Misconfigured(f"{path}: endpoint {endpoint.endpoint} is declared by {other} too")
        endpoints += found
    return endpoints


def withdraw(
    endpoint: Annotated[str, typer.Argument(help="The endpoint to withdraw.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    author: Annotated[str, typer.Option(help="The author in the record of the withdrawal.")] = "millrace withdraw",
) -> None:
    """Withdraw an endpoint: requests for it are refused from then on; its queues remain."""
    installation = started_installation(settings, overrides(broker__url=broker))
    found = uvloop.run(_find(installation, endpoint))
    path = file_of(found)
    if path is not None and path.is_file():
        errors.print(
            f"[yellow]note:[/] {path} declares it: remove it there too, or it is declared again", highlight=False
        )
    if not confirm(f"withdraw endpoint {endpoint}, declared by {found}", yes=yes):
        return

    async def publish() -> None:
        async with installation.broker() as connection:
            declarations = Declarations(connection)
            await declarations.read()
            await declarations.withdraw(endpoint, author)

    uvloop.run(publish())
    console.print(f"endpoint {endpoint}: withdrawn")


async def _find(installation: Installation, endpoint: str) -> str:
    """Return the author of an endpoint's declaration."""
    async with installation.broker() as connection:
        declarations = Declarations(connection)
        await declarations.read()
        return declarations.author(endpoint)
