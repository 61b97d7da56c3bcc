"""Reads, replays and purges dead letters, through the broker port alone.

Reading takes the letters and requeues them, so they are always in the broker and a killed command loses nothing.
Letters that one command holds are invisible to other commands.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from broker.base import Broker, Consumer
from broker.errors import Rejected, TryAgain
from broker.messages import Delivery, Outcome, Reason, Settlement
from broker.protocol.dead_letters import DeadLetter, DeadLetterFilter, read_dead_letter, replay_messages
from broker.protocol.ids import now_us

PAGE = 32  # messages taken at once: at most a quarter of a gigabyte
HELD_LIMIT_BYTES = 512 * 1024 * 1024
QUIET_S = 2.0
BACK_EVERY_S = 0.02
FIRST_WITHIN_S = 15.0  # long, because a Kafka consumer must join its group first

Visit = Callable[[list[Delivery]], Awaitable[list[Delivery]]]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DeadQueuePage:
    """The letters of a dead queue that were read; `more` is the number of messages that were not."""

    queue: str
    letters: Sequence[DeadLetter]
    more: int


@dataclass(slots=True)
class ReplayReport:
    """How many letters were replayed or purged (`done`); all others stay in the dead queue.

    `skipped` and `refused` count letters by reason.
    """

    done: int = 0
    left: int = 0  # read, but not chosen
    more: int = 0  # not read
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stopped: str = ""  # the error that ended the command early


async def read_page(
    broker: Broker, queue: str, limit: int, *, held_limit_bytes: int = HELD_LIMIT_BYTES
) -> DeadQueuePage:
    """Read up to `limit` letters of a dead queue and leave all of them there.

    No more letters are read once those that are held have `held_limit_bytes`.
    """
    letters: list[DeadLetter] = []

    async def visit(page: list[Delivery]) -> list[Delivery]:
        letters.extend(read_dead_letter(delivery.message, broker.channels) for delivery in page)
        return page

    more = await _walk(broker, queue, limit, visit, held_limit_bytes)
    return DeadQueuePage(queue, letters, more)


async def replay(
    broker: Broker,
    queue: str,
    choice: DeadLetterFilter,
    limit: int,
    allowed_us: Callable[[str], int],
    progress: Progress = lambda _: None,
) -> ReplayReport:
    """Forward the chosen letters of a dead queue to their original queues.

    Each letter is published to its original queue before it is acked. `allowed_us(endpoint)` is the time until the new
    deadline. `progress` is called with the number of letters of each page.
    """
    report = ReplayReport()

    async def visit(page: list[Delivery]) -> list[Delivery]:
        tries = [_replay_one(broker, delivery, choice, allowed_us, report) for delivery in page]
        moved = await asyncio.gather(*tries, return_exceptions=True)
        progress(len(page))
        for result in moved:  # raise only after all other letters of the page are counted
            if isinstance(result, BaseException):
                raise result
        return [delivery for delivery, gone in zip(page, moved, strict=True) if not gone]

    await _count_walk(broker, queue, limit, visit, report)
    return report


async def purge(
    broker: Broker, queue: str, choice: DeadLetterFilter, limit: int, progress: Progress = lambda _: None
) -> ReplayReport:
    """Delete the chosen letters of a dead queue."""
    report = ReplayReport()

    async def visit(page: list[Delivery]) -> list[Delivery]:
        letters = [read_dead_letter(delivery.message, broker.channels) for delivery in page]
        chosen = [_is_chosen(letter, choice, report) for letter in letters]
        gone = [delivery for delivery, takes in zip(page, chosen, strict=True) if takes]
        await broker.ack(gone)
        report.done += len(gone)
        progress(len(page))
        return [delivery for delivery, takes in zip(page, chosen, strict=True) if not takes]

    await _count_walk(broker, queue, limit, visit, report)
    return report


def preview(page: DeadQueuePage, choice: DeadLetterFilter, *, replays: bool) -> ReplayReport:
    """Count the letters of a page that replay or purge would change."""
    report = ReplayReport(more=page.more)
    for letter in page.letters:
        if _is_chosen(letter, choice, report):
            if replays and letter.stuck:
                report.skipped[letter.stuck] += 1
            else:
                report.done += 1
    return report


def _is_chosen(letter: DeadLetter, choice: DeadLetterFilter, report: ReplayReport) -> bool:
    if choice.takes(letter):
        return True
    if choice.splits(letter):
        report.skipped[f"a bundle of {len(letter.ids)} requests, of which only some are named: name all of them"] += 1
    else:
        report.left += 1
    return False


async def _replay_one(
    broker: Broker, delivery: Delivery, choice: DeadLetterFilter, allowed_us: Callable[[str], int], report: ReplayReport
) -> bool:
    """Forward one letter if it is chosen; returns True if it has left the dead queue."""
    letter = read_dead_letter(delivery.message, broker.channels)
    if not _is_chosen(letter, choice, report):
        return False
    if letter.stuck:
        report.skipped[letter.stuck] += 1
        return False
    try:
        outcomes = await broker.forward([delivery], replay_messages(letter, now_us(), allowed_us))
    except Rejected as exc:
        report.refused[f"{letter.origin}: {exc}"] += 1
        return False
    for outcome in outcomes:
        if not outcome.safe:
            report.refused[_explain(outcome, letter.origin)] += 1
            return False
    report.done += 1
    return True


def _explain(outcome: Outcome, queue: str) -> str:
    if outcome.settlement is Settlement.UNKNOWN:
        return f"the connection was lost, {queue} may have the message: replay again, at worst it is computed twice"
    return {
        Reason.FULL: f"{queue} is full: wait until it is shorter (millrace models), then replay again",
        Reason.NO_QUEUE: f"there is no queue {queue}: is its endpoint or model still served? see millrace models",
        Reason.TOO_LARGE: f"it is too large for {queue}: millrace dead show --raw saves its body",
    }.get(outcome.reason or Reason.FULL, str(outcome))


async def _count_walk(broker: Broker, queue: str, limit: int, visit: Visit, report: ReplayReport) -> None:
    """Walk the queue; if the broker is lost, keep the counts and note the error in the report."""
    try:
        report.more = await _walk(broker, queue, limit, visit)
    except TryAgain as exc:
        report.stopped = str(exc)


async def _walk(broker: Broker, queue: str, limit: int, visit: Visit, held_limit_bytes: int = HELD_LIMIT_BYTES) -> int:
    """Pass pages of a queue to `visit`, which returns the deliveries that it has not settled.

    These are requeued at the end; if they were requeued earlier, they would be delivered again at once. Returns the
    number of messages that were not visited.
    """
    ready = (await broker.depth(queue)).messages
    if not ready:
        return 0
    consumer = broker.consume(queue, min(PAGE, limit))
    held: list[Delivery] = []
    try:
        seen = await _pages(consumer, held, min(limit, ready), visit, held_limit_bytes)
        await consumer.stop()
        held += await _rest(consumer)
    finally:
        await consumer.stop()
        await broker.requeue(held)
    await _until_back(broker, queue, len(held))
    return max(0, ready - seen)  # not from a new depth: brokers differ in whether it counts held messages


async def _pages(consumer: Consumer, held: list[Delivery], wanted: int, visit: Visit, held_limit_bytes: int) -> int:
    """Visit up to `wanted` messages and return their number; unsettled ones are added to `held`."""
    seen, size, prefetch = 0, 0, PAGE
    while seen < wanted and size < held_limit_bytes:
        page = await _take(consumer, min(PAGE, wanted - seen), QUIET_S if seen else FIRST_WITHIN_S)
        if not page:
            break
        seen += len(page)
        before = len(held)
        held += page  # before the visit, so that an error in it requeues the page
        held[before:] = await visit(page)
        size += sum(len(delivery.message.body) for delivery in held[before:])
        if len(held) + PAGE > prefetch and seen < wanted:
            prefetch = len(held) + PAGE
            consumer.resize(prefetch)
    return seen


async def _until_back(broker: Broker, queue: str, number: int) -> None:
    """Wait until the depth counts the requeued messages again, for at most QUIET_S: others may have taken them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            while (await broker.depth(queue)).messages < number:  # noqa: ASYNC110 - the depth can only be polled
                await asyncio.sleep(BACK_EVERY_S)


async def _rest(consumer: Consumer) -> list[Delivery]:
    """Take the messages that the broker has prefetched beyond the limit."""
    rest: list[Delivery] = []
    while page := await _take(consumer, PAGE):
        rest += page
    return rest


async def _take(consumer: Consumer, number: int, within_s: float = QUIET_S) -> list[Delivery]:
    """Take up to `number` messages; returns none after `within_s` seconds, as another consumer may have taken them."""
    try:
        async with asyncio.timeout(within_s):
            return await consumer.take(number)
    except TimeoutError:
        return []
