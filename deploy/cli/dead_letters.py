"""`millrace dead`: what was buried, and what becomes of it: `list`, `show`, `replay`, `purge`."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from broker.base import Broker
from broker.errors import Misconfigured
from broker.protocol.dead_letters import DeadLetterFilter, body_of
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from broker.support.strict import seconds
from deploy.cli.letters import age, counted, grave_row, letter_lines, letter_row, printable
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    console,
    errors,
    existing,
    listed,
    looked_at,
    overrides,
    show,
)
from deploy.operations.dead_letters import DeadQueuePage, ReplayReport, look, preview, purge, replay
from deploy.operations.dead_queues import DeadQueues, filled, find_grounds, grave_called, open_grave, unknown
from deploy.operations.watch import Declarations
from deploy.wiring import Installation

T = TypeVar("T")

DEFAULT_DEADLINE_S = float(Endpoint.model_fields["deadline"].default)

Queue = Annotated[
    str, typer.Argument(help="A dead queue as `dead list` names it, the queue before it, or model@version.")
]
Reason = Annotated[str, typer.Option("--reason", help="Only what was buried for this reason.")]
OfEndpoint = Annotated[str, typer.Option("--endpoint", help="Only requests of this endpoint.")]
Uids = Annotated[list[str] | None, typer.Option("--uid", help="Only these, as `dead show` names them; repeatable.")]
OlderThan = Annotated[str, typer.Option("--older-than", help="Only what was buried longer ago: 30s, 10m, 1h, 2d.")]
Limit = Annotated[int, typer.Option("--limit", help="Messages of a queue to look at.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

app = typer.Typer(
    help="Look at dead letters, send them back, or remove them.",
    epilog="Example: millrace dead list",
    no_args_is_help=True,
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="dead")


@app.command("list", epilog="Example: millrace dead list --endpoint fraud")
def list_graves(
    queue: Annotated[str, typer.Option("--queue", help="Only what died of this queue.")] = "",
    endpoint: Annotated[str, typer.Option("--endpoint", help="Only the queues of this endpoint.")] = "",
    model: Annotated[str, typer.Option("--model", help="Only the queues of this model, or model@version.")] = "",
    limit: Limit = 1000,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json: Json = False,
) -> None:
    """Show which dead queues hold something: how much, since when, and why."""
    if sum(map(bool, (queue, endpoint, model))) > 1:
        raise Misconfigured("--queue, --endpoint and --model: give one of them")
    place = existing(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> list[DeadQueuePage]:
        grounds = await find_grounds(connection, place.settings.repository_folder)
        graves = _wanted(grounds, queue, endpoint, model)
        return [await look(connection, grave, limit) for grave in await filled(connection, graves)]

    found = listed(place, work)
    rows = [grave_row(looked, now_us(), place.settings.channels) for looked in found]
    if as_json or rows:
        shown = rows if as_json else [_as_text(row) for row in rows]
        show(shown, ("queue", "messages", "oldest", "reasons", "last error"), as_json=as_json)
    else:
        console.print("no dead letters")
    _say_more(sum(looked.more for looked in found), limit)


@app.command("show", epilog="Example: millrace dead show fraud@3 --reason attempts --limit 5")
def show_letters(
    queue: Queue,
    limit: Limit = 20,
    reason: Reason = "",
    raw: Annotated[str, typer.Option("--raw", metavar="UID", help="Write the bytes of this one's body.")] = "",
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json: Json = False,
) -> None:
    """Show what lies in a dead queue, and leave it there; `--raw UID > file` saves one body as it came."""
    place = _place(settings, broker)
    looked = _look(place, queue, max(limit, 1000) if raw or reason else limit)
    if raw:
        body = body_of(looked.letters, raw)
        if body is None:
            names = [one for letter in looked.letters for one in letter.ids]
            raise Misconfigured(unknown(_in(place, looked), raw, names))
        sys.stdout.buffer.write(body)
        return
    letters = [letter for letter in looked.letters if reason in ("", letter.reason)]
    shown = letters[:limit]
    if as_json:
        sys.stdout.write(json.dumps([letter_row(letter) for letter in shown]) + "\n")
    else:
        _print_lines(line for letter in shown for line in letter_lines(letter, now_us()))
        if not letters:
            _print_lines([f"{looked.queue}: nothing to show"])
    _say_more(looked.more + len(letters) - len(shown), limit)


@app.command("replay", epilog="Example: millrace dead replay fraud@3 --reason attempts --dry-run")
def replay_letters(
    queue: Queue,
    reason: Reason = "",
    endpoint: OfEndpoint = "",
    uid: Uids = None,
    older_than: OlderThan = "",
    limit: Limit = 1000,
    deadline: Annotated[
        str, typer.Option("--deadline", help="Time allowed from now, such as 30s; the endpoint's own if not said.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
) -> None:
    """Send dead letters back to the queue they came from, to be tried again as if for the first time.

    A request keeps its id and its arm. A client of the queue gets a second answer under that id; an HTTP client had its
    `failed` and hears no more. What is refused stays buried; exit status 1 then.
    """
    place, choice = _place(settings, broker), _choice(reason, endpoint, uid, older_than)
    allowed_s = _duration("--deadline", deadline) if deadline else 0.0
    ahead = _preview(place, queue, limit, choice, replays=True)
    if dry_run or not _goes_on(ahead, f"replay {ahead.done} of {queue}", yes=yes):
        _summary("would replay" if dry_run or ahead.done else "replayed", ahead, limit)
        return

    async def work(connection: Broker) -> ReplayReport:
        allowed_us = await _allowed(connection, allowed_s)
        grave = grave_called(connection.channels, queue)
        with _bar(f"replay {queue}", _total(ahead)) as progress:
            return await replay(connection, grave, choice, limit, allowed_us, progress)

    _end("replayed", _run(place, work), limit)


@app.command("purge", epilog="Example: millrace dead purge fraud@3 --older-than 30d")
def purge_letters(
    queue: Queue,
    reason: Reason = "",
    endpoint: OfEndpoint = "",
    uid: Uids = None,
    older_than: OlderThan = "",
    limit: Limit = 1000,
    dry_run: DryRun = False,
    yes: Yes = False,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
) -> None:
    """Remove dead letters for good: nothing brings them back."""
    place, choice = _place(settings, broker), _choice(reason, endpoint, uid, older_than)
    ahead = _preview(place, queue, limit, choice, replays=False)
    if dry_run or not _goes_on(ahead, f"remove {ahead.done} of {queue} for good", yes=yes):
        _summary("would purge" if dry_run or ahead.done else "purged", ahead, limit)
        return

    async def work(connection: Broker) -> ReplayReport:
        grave = grave_called(connection.channels, queue)
        with _bar(f"purge {queue}", _total(ahead)) as progress:
            return await purge(connection, grave, choice, limit, progress)

    _end("purged", _run(place, work), limit)


def _place(settings: Path, broker: str) -> Installation:
    return looked_at(settings, overrides(broker__url=broker))


def _run(place: Installation, work: Callable[[Broker], Awaitable[T]]) -> T:
    async def run() -> T:
        async with place.broker() as connection:
            return await work(connection)

    return uvloop.run(run())


def _look(place: Installation, queue: str, limit: int) -> DeadQueuePage:
    async def work(connection: Broker) -> DeadQueuePage:
        grave, holds = await open_grave(connection, place.settings.repository_folder, queue)
        return await look(connection, grave, limit) if holds else DeadQueuePage(grave, [], 0)

    return _run(place, work)


def _preview(place: Installation, queue: str, limit: int, choice: DeadLetterFilter, *, replays: bool) -> ReplayReport:
    """Tell what would be done; a message that is named and not there is a mistake, not an empty choice."""
    looked = _look(place, queue, limit)
    ids = {one for letter in looked.letters for one in letter.ids}
    if missing := choice.ids - ids:
        _say_more(looked.more, limit)
        raise Misconfigured(unknown(_in(place, looked), min(missing), ids))
    return preview(looked, choice, replays=replays)


def _in(place: Installation, looked: DeadQueuePage) -> str:
    return f"in {looked.queue.removeprefix(place.settings.channels.prefix)}"


def _wanted(grounds: DeadQueues, queue: str, endpoint: str, model: str) -> list[str]:
    if queue:
        return [grave_called(grounds.channels, queue)]
    if endpoint:
        return grounds.of_endpoint(endpoint)
    return grounds.of_model(model) if model else grounds.all()


def _choice(reason: str, endpoint: str, uids: list[str] | None, older_than: str) -> DeadLetterFilter:
    before_us = now_us() - int(_duration("--older-than", older_than) * 1e6) if older_than else None
    ids = frozenset(uid.lower() for uid in uids or ())
    return DeadLetterFilter(reason=reason, endpoint=endpoint, ids=ids, before_us=before_us)


def _duration(option: str, text: str) -> float:
    try:
        return seconds(text)
    except ValueError as exc:
        raise Misconfigured(f"{option}: {exc}") from exc


async def _allowed(connection: Broker, given_s: float) -> Callable[[str], int]:
    """Return how long a request of an endpoint may take, in microseconds."""
    declarations = Declarations(connection)
    await declarations.read()

    def allowed_us(endpoint: str) -> int:
        declared = declarations.endpoints.get(endpoint)
        return int((given_s or (declared.deadline if declared else DEFAULT_DEADLINE_S)) * 1e6)

    return allowed_us


def _goes_on(ahead: ReplayReport, what: str, *, yes: bool) -> bool:
    """Tell whether there is something to do, and whoever asked for it wants it."""
    if not ahead.done:
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}? nobody is here to ask: say --yes, or --dry-run to see it first")
    return typer.confirm(f"{what}?")


def _total(ahead: ReplayReport) -> int:
    return ahead.done + ahead.left + sum(ahead.skipped.values())


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(escape(what), total=total)

        def advance(number: int) -> None:
            bar.advance(task, number)

        yield advance


def _end(what: str, done: ReplayReport, limit: int) -> None:
    _summary(what, done, limit)
    if done.refused or done.stopped:
        raise typer.Exit(1)


def _summary(what: str, done: ReplayReport, limit: int) -> None:
    skipped, refused = sum(done.skipped.values()), sum(done.refused.values())
    left = f"; {done.left} not chosen" if done.left else ""
    _print_lines([f"{what} {done.done}, skipped {skipped}, refused {refused}{left}"])
    for word, reasons in (("skipped", done.skipped), ("refused", done.refused)):
        for reason, count in reasons.items():
            errors.print(f"{word} {count}: {printable(reason)}", highlight=False, markup=False)
    if done.stopped:
        errors.print(f"stopped in between: {printable(done.stopped)}", highlight=False, markup=False)
    _say_more(done.more, limit)


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    texts = {
        **row,
        "oldest": f"{row['oldest']} ({age(row['age s'] * 1_000_000)})" if row["oldest"] else "",
        "reasons": counted(row["reasons"]),
    }
    return {name: escape(str(value)) for name, value in texts.items()}


def _say_more(more: int, limit: int) -> None:
    if more:
        errors.print(f"{more} more were not looked at: --limit {limit + more} takes them in", highlight=False)


def _print_lines(lines: Any) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
