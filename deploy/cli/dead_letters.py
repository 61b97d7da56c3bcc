"""`millrace dead list | show | replay | purge`: the commands for dead letters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from broker.base import Broker
from broker.errors import Misconfigured
from broker.protocol.dead_letters import DeadLetterFilter, body_of
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from broker.support.strict import seconds
from deploy.cli.dead_letter_view import age, counted, letter_lines, letter_row, printable, queue_row
from deploy.cli.terminal import (
    DEFAULT_SETTINGS,
    BrokerUrl,
    Json,
    SettingsPath,
    console,
    errors,
    existing_installation,
    overrides,
    read_list,
    show,
    started_installation,
    with_broker,
)
from deploy.operations.dead_letters import DeadQueuePage, ReplayReport, preview, purge, read_page, replay
from deploy.operations.dead_queues import (
    DeadQueues,
    dead_queue_name,
    find_dead_queues,
    non_empty,
    resolve_dead_queue,
    unknown_name,
)
from deploy.operations.watch import Declarations
from deploy.wiring import Installation

DEFAULT_DEADLINE_S = float(Endpoint.model_fields["deadline"].default)

Queue = Annotated[
    str, typer.Argument(help="A dead queue as `dead list` names it, its original queue, or model@version.")
]
Reason = Annotated[str, typer.Option("--reason", help="Only messages that were buried for this reason.")]
OfEndpoint = Annotated[str, typer.Option("--endpoint", help="Only requests of this endpoint.")]
Uids = Annotated[list[str] | None, typer.Option("--uid", help="Only this id, as `dead show` prints it; repeatable.")]
OlderThan = Annotated[str, typer.Option("--older-than", help="Only messages buried longer ago: 30s, 10m, 1h, 2d.")]
Limit = Annotated[int, typer.Option("--limit", help="The largest number of messages to read from a queue.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the effect without changing anything.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

app = typer.Typer(
    help="Show dead letters, send them back to their queues, or delete them.",
    epilog="Example: millrace dead list",
    no_args_is_help=True,
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="dead")


@app.command("list", epilog="Example: millrace dead list --endpoint fraud")
def list_dead_queues(
    queue: Annotated[str, typer.Option("--queue", help="Only the dead letters of this queue.")] = "",
    endpoint: Annotated[str, typer.Option("--endpoint", help="Only the queues of this endpoint.")] = "",
    model: Annotated[str, typer.Option("--model", help="Only the queues of this model, or model@version.")] = "",
    limit: Limit = 1000,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json: Json = False,
) -> None:
    """Show the dead queues that are not empty: the number of messages, the oldest one, and the reasons."""
    if sum(map(bool, (queue, endpoint, model))) > 1:
        raise Misconfigured("--queue, --endpoint and --model: give one of them")
    installation = existing_installation(settings, overrides(broker__url=broker))

    async def work(connection: Broker) -> list[DeadQueuePage]:
        dead_queues = await find_dead_queues(connection, installation.settings.repository_folder)
        queues = _queues_of(dead_queues, queue, endpoint, model)
        return [await read_page(connection, dead_queue, limit) for dead_queue in await non_empty(connection, queues)]

    found = read_list(installation, work)
    rows = [queue_row(page, now_us(), installation.settings.channels) for page in found]
    if as_json or rows:
        shown = rows if as_json else [_as_text(row) for row in rows]
        show(shown, ("queue", "messages", "oldest", "reasons", "last error"), as_json=as_json)
    else:
        console.print("no dead letters")
    _print_unread(sum(page.more for page in found), limit)


@app.command("show", epilog="Example: millrace dead show fraud@3 --reason attempts --limit 5")
def show_letters(
    queue: Queue,
    limit: Limit = 20,
    reason: Reason = "",
    raw: Annotated[str, typer.Option("--raw", metavar="UID", help="Write the bytes of this message's body.")] = "",
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
    as_json: Json = False,
) -> None:
    """Show the letters in a dead queue, without removing them; `--raw UID > file` saves the body of one."""
    installation = started_installation(settings, overrides(broker__url=broker))
    page = _read_queue(installation, queue, max(limit, 1000) if raw or reason else limit)
    if raw:
        body = body_of(page.letters, raw)
        if body is None:
            names = [one for letter in page.letters for one in letter.ids]
            raise Misconfigured(unknown_name(_queue_text(installation, page), raw, names))
        sys.stdout.buffer.write(body)
        return
    letters = [letter for letter in page.letters if reason in ("", letter.reason)]
    shown = letters[:limit]
    if as_json:
        sys.stdout.write(json.dumps([letter_row(letter) for letter in shown]) + "\n")
    else:
        _print_lines(line for letter in shown for line in letter_lines(letter, now_us()))
        if not letters:
            _print_lines([f"{page.queue}: nothing to show"])
    _print_unread(page.more + len(letters) - len(shown), limit)


@app.command("replay", epilog="Example: millrace dead replay fraud@3 --reason attempts --dry-run")
def replay_letters(
    queue: Queue,
    reason: Reason = "",
    endpoint: OfEndpoint = "",
    uid: Uids = None,
    older_than: OlderThan = "",
    limit: Limit = 1000,
    deadline: Annotated[
        str, typer.Option("--deadline", help="Time allowed from now, such as 30s; by default the endpoint's own.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    settings: SettingsPath = DEFAULT_SETTINGS,
    broker: BrokerUrl = "",
) -> None:
    """Send dead letters back to their original queues; their attempts are counted from zero again.

    A request keeps its id and its arm. A queue client gets a second answer with that id; an HTTP client has received
    `failed` already and gets nothing more. A letter that its queue refuses stays buried; the exit status is then 1.
    """
    installation, choice = (
        started_installation(settings, overrides(broker__url=broker)),
        _choice(reason, endpoint, uid, older_than),
    )
    allowed_s = _duration("--deadline", deadline) if deadline else 0.0
    ahead = _preview(installation, queue, limit, choice, replays=True)
    if dry_run or not _confirmed(ahead, f"replay {ahead.done} of {queue}", yes=yes):
        _summary("would replay" if dry_run or ahead.done else "replayed", ahead, limit)
        return

    async def work(connection: Broker) -> ReplayReport:
        allowed_us = await _allowed(connection, allowed_s)
        dead_queue = dead_queue_name(connection.channels, queue)
        with _progress_bar(f"replay {queue}", _total(ahead)) as progress:
            return await replay(connection, dead_queue, choice, limit, allowed_us, progress)

    _finish("replayed", with_broker(installation, work), limit)


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
    """Delete dead letters; this cannot be undone."""
    installation, choice = (
        started_installation(settings, overrides(broker__url=broker)),
        _choice(reason, endpoint, uid, older_than),
    )
    ahead = _preview(installation, queue, limit, choice, replays=False)
    if dry_run or not _confirmed(ahead, f"delete {ahead.done} of {queue}", yes=yes):
        _summary("would purge" if dry_run or ahead.done else "purged", ahead, limit)
        return

    async def work(connection: Broker) -> ReplayReport:
        dead_queue = dead_queue_name(connection.channels, queue)
        with _progress_bar(f"purge {queue}", _total(ahead)) as progress:
            return await purge(connection, dead_queue, choice, limit, progress)

    _finish("purged", with_broker(installation, work), limit)


def _read_queue(installation: Installation, queue: str, limit: int) -> DeadQueuePage:
    async def work(connection: Broker) -> DeadQueuePage:
        dead_queue, holds = await resolve_dead_queue(connection, installation.settings.repository_folder, queue)
        return await read_page(connection, dead_queue, limit) if holds else DeadQueuePage(dead_queue, [], 0)

    return with_broker(installation, work)


def _preview(
    installation: Installation, queue: str, limit: int, choice: DeadLetterFilter, *, replays: bool
) -> ReplayReport:
    """Count the letters that the command would change; raises Misconfigured for a `--uid` that is not in the queue."""
    page = _read_queue(installation, queue, limit)
    ids = {one for letter in page.letters for one in letter.ids}
    if missing := choice.ids - ids:
        _print_unread(page.more, limit)
        raise Misconfigured(unknown_name(_queue_text(installation, page), min(missing), ids))
    return preview(page, choice, replays=replays)


def _queue_text(installation: Installation, page: DeadQueuePage) -> str:
    return f"in {page.queue.removeprefix(installation.settings.channels.prefix)}"


def _queues_of(dead_queues: DeadQueues, queue: str, endpoint: str, model: str) -> list[str]:
    if queue:
        return [dead_queue_name(dead_queues.channels, queue)]
    if endpoint:
        return dead_queues.of_endpoint(endpoint)
    return dead_queues.of_model(model) if model else dead_queues.all()


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
    """Return a function that gives the time allowed for a request of an endpoint, in microseconds."""
    declarations = Declarations(connection)
    await declarations.read()

    def allowed_us(endpoint: str) -> int:
        declared = declarations.endpoints.get(endpoint)
        return int((given_s or (declared.deadline if declared else DEFAULT_DEADLINE_S)) * 1e6)

    return allowed_us


def _confirmed(ahead: ReplayReport, what: str, *, yes: bool) -> bool:
    """Return True if there is something to do and the user confirms it; raises Misconfigured without a terminal."""
    if not ahead.done:
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misconfigured(f"{what}? there is no terminal to ask on: add --yes, or --dry-run to see the effect first")
    return typer.confirm(f"{what}?")


def _total(ahead: ReplayReport) -> int:
    return ahead.done + ahead.left + sum(ahead.skipped.values())


@contextmanager
def _progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(escape(what), total=total)

        def advance(number: int) -> None:
            bar.advance(task, number)

        yield advance


def _finish(what: str, done: ReplayReport, limit: int) -> None:
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
        errors.print(f"stopped early: {printable(done.stopped)}", highlight=False, markup=False)
    _print_unread(done.more, limit)


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    texts = {
        **row,
        "oldest": f"{row['oldest']} ({age(row['age s'] * 1_000_000)})" if row["oldest"] else "",
        "reasons": counted(row["reasons"]),
    }
    return {name: escape(str(value)) for name, value in texts.items()}


def _print_unread(more: int, limit: int) -> None:
    if more:
        errors.print(f"{more} more were not read: --limit {limit + more} includes them", highlight=False)


def _print_lines(lines: Any) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
