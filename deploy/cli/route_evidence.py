"""`millrace route report | replay`: evaluates an endpoint's arms, and another policy, from its log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from broker.base import Broker
from broker.errors import Misconfigured
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from deploy.cli.plots import print_sections
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    EndpointName,
    Json,
    SettingsPath,
    console,
    errors,
    overrides,
    started_installation,
    with_broker,
)
from deploy.operations.report_html import page
from deploy.operations.route_commands import inspect_endpoint
from deploy.operations.watch import read_file
from router.evidence.sections import Section, as_json

Html = Annotated[Path | None, typer.Option("--html", help="Also write the result as an HTML page.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: millrace route report fraud --html fraud.html")(report)
    app.command(epilog="Example: millrace route replay fraud endpoints/fraud-next.yaml")(replay)


def report(
    endpoint: EndpointName,
    html: Html = None,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json_: Json = False,
) -> None:
    """Read an endpoint's whole log, and print what it proves about the arms."""
    installation = started_installation(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> list[Section]:
        from router.evidence.reading import read_evidence  # imports numpy and pyarrow
        from router.evidence.report import report as sections_of

        routed = await inspect_endpoint(connection, endpoint)
        with reading() as progress:
            return sections_of(await read_evidence(connection, routed.endpoint, now_us(), progress))

    _print(with_broker(installation, work), f"endpoint {endpoint}", html, as_json_=as_json_)


def replay(
    endpoint: EndpointName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A declaration of the same endpoint and arms.")],
    html: Html = None,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json_: Json = False,
) -> None:
    """Estimate the rewards that the split or bandit in a file would have had with the requests of the log."""
    candidate = one_endpoint(file, endpoint)
    installation = started_installation(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> list[Section]:
        from router.evidence.reading import read_evidence  # imports numpy and pyarrow
        from router.evidence.replay import check_candidate
        from router.evidence.replay import replay as sections_of

        routed = await inspect_endpoint(connection, endpoint)
        check_candidate(routed.endpoint, candidate)
        with reading() as progress:
            found = await read_evidence(connection, routed.endpoint, now_us(), progress, candidate=candidate)
        return sections_of(found, candidate)

    _print(with_broker(installation, work), f"endpoint {endpoint}, as {file.name} declares it", html, as_json_=as_json_)


def one_endpoint(file: Path, name: str = "") -> Endpoint:
    """Return the only declaration in a file, or the one of endpoint `name`; raises Misconfigured."""
    declared = read_file(file)
    found = [one for one in declared if one.endpoint == name] or declared
    if len(found) != 1:
        raise Misconfigured(f"{file.name} declares {len(found)} endpoints; one is expected")
    return found[0]


@contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; yields a function that is called with the records read and their total."""
    columns = TextColumn("reading the log"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


def _print(sections: Sequence[Section], title: str, html: Path | None, *, as_json_: bool) -> None:
    if html is not None:
        try:
            html.write_text(page(title, sections), "utf-8")
        except OSError as exc:
            raise Misconfigured(f"{html} cannot be written: {exc.strerror}") from exc
        errors.print(f"wrote {html}", highlight=False, markup=False, soft_wrap=True)
    if as_json_:
        sys.stdout.write(json.dumps(as_json(sections)) + "\n")
    else:
        print_sections(sections, console)
