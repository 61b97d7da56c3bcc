"""Work on dead queues, over the port alone: look, replay, purge.

A dead letter is looked at by taking it and giving it back, so it is never anywhere but in the broker: whoever is
killed in the middle of this has lost nothing. What is in hand is not seen by another look at the same time.
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

PAGE = 32  # messages taken at once: of the largest size, a quarter of a gigabyte
HELD_LIMIT_BYTES = 512 * 1024 * 1024
QUIET_S = 2.0
BACK_EVERY_S = 0.02
FIRST_WITHIN_S = 15.0  # a consumer may have to join a group first

Visit = Callable[[list[Delivery]], Awaitable[list[Delivery]]]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DeadQueuePage:
    """What lies in a dead queue, as far as it was looked at; `more` messages were not."""

    queue: str
    letters: Sequence[DeadLetter]
    more: int


@dataclass(slots=True)
class ReplayReport:
    """What became of the letters that were looked at; skipped and refused ones lie where they lay."""

    done: int = 0
    left: int = 0  # not chosen
    more: int = 0  # not looked at
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stopped: str = ""  # what ended it before its end


async def look(broker: Broker, queue: str, limit: int) -> DeadQueuePage:
    """Read up to `limit` letters of a dead queue, and leave all of them there."""
    letters: list[DeadLetter] = []

    async def visit(page: list[Delivery]) -> list[Delivery]:
        letters.extend(read_dead_letter(delivery.message, broker.channels) for delivery in page)
        return page

    more = await _walk(broker, queue, limit, visit)
    return DeadQueuePage(queue, letters, more)


async def replay(
    broker: Broker,
    queue: str,
    choice: DeadLetterFilter,
    limit: int,
    allowed_us: Callable[[str], int],
    progress: Progress = lambda _: None,
) -> ReplayReport:
    """Forward the chosen letters of a dead queue to where they came from: each is published, then acked."""
    done = ReplayReport()

    async def visit(page: list[Delivery]) -> list[Delivery]:
        tries = [_replay_one(broker, delivery, choice, allowed_us, done) for delivery in page]
        moved = await asyncio.gather(*tries, return_exceptions=True)
        progress(len(page))
        for result in moved:  # only now: what the others have done is counted
            if isinstance(result, BaseException):
                raise result
        return [delivery for delivery, gone in zip(page, moved, strict=True) if not gone]

    await _count_walk(broker, queue, limit, visit, done)
    return done


async def purge(
    broker: Broker, queue: str, choice: DeadLetterFilter, limit: int, progress: Progress = lambda _: None
) -> ReplayReport:
    """Remove the chosen letters of a dead queue for good."""
    done = ReplayReport()

    async def visit(page: list[Delivery]) -> list[Delivery]:
        letters = [read_dead_letter(delivery.message, broker.channels) for delivery in page]
        chosen = [_is_chosen(letter, choice, done) for letter in letters]
        gone = [delivery for delivery, takes in zip(page, chosen, strict=True) if takes]
        await broker.ack(gone)
        done.done += len(gone)
        progress(len(page))
        return [delivery for delivery, takes in zip(page, chosen, strict=True) if not takes]

    await _count_walk(broker, queue, limit, visit, done)
    return done


def preview(looked: DeadQueuePage, choice: DeadLetterFilter, *, replays: bool) -> ReplayReport:
    """Tell what replay or purge would do to what was looked at."""
    done = ReplayReport(more=looked.more)
    for letter in looked.letters:
        if _is_chosen(letter, choice, done):
            if replays and letter.stuck:
                done.skipped[letter.stuck] += 1
            else:
                done.done += 1
    return done


def _is_chosen(letter: DeadLetter, choice: DeadLetterFilter, done: ReplayReport) -> bool:
    if choice.takes(letter):
        return True
    if choice.splits(letter):
        done.skipped[f"a bundle of {len(letter.ids)} requests, of which only some are named: name all of them"] += 1
    else:
        done.left += 1
    return False


async def _replay_one(
    broker: Broker, delivery: Delivery, choice: DeadLetterFilter, allowed_us: Callable[[str], int], done: ReplayReport
) -> bool:
    """Forward one letter if it is chosen; tells whether it is gone from here."""
    letter = read_dead_letter(delivery.message, broker.channels)
    if not _is_chosen(letter, choice, done):
        return False
    if letter.stuck:
        done.skipped[letter.stuck] += 1
        return False
    try:
        outcomes = await broker.forward([delivery], replay_messages(letter, now_us(), allowed_us))
    except Rejected as exc:
        done.refused[f"{letter.origin}: {exc}"] += 1
        return False
    for outcome in outcomes:
        if not outcome.safe:
            done.refused[_explain(outcome, letter.origin)] += 1
            return False
    done.done += 1
    return True


def _explain(outcome: Outcome, queue: str) -> str:
    if outcome.settlement is Settlement.UNKNOWN:
        return f"the connection was lost: {queue} may have it all the same; replay again, at worst it runs twice"
    return {
        Reason.FULL: f"{queue} is full: wait until it is shorter (millrace models), then replay again",
        Reason.NO_QUEUE: f"there is no queue {queue}: is what it was for still served? see millrace models",
        Reason.TOO_LARGE: f"it is larger than the broker takes for {queue}: millrace dead show --raw saves its body",
    }.get(outcome.reason or Reason.FULL, str(outcome))


async def _count_walk(broker: Broker, queue: str, limit: int, visit: Visit, done: ReplayReport) -> None:
    """Walk, and keep what was done before the broker was lost: it is worth saying."""
    try:
        done.more = await _walk(broker, queue, limit, visit)
    except TryAgain as exc:
        done.stopped = str(exc)


async def _walk(broker: Broker, queue: str, limit: int, visit: Visit) -> int:
    """Hand pages of a queue to `visit`, which returns what it has not settled; that is given back at the end.

    Nothing is given back earlier: it would come again at once. Returns how many messages were not handed out.
    """
    ready = (await broker.depth(queue)).messages
    if not ready:
        return 0
    consumer = broker.consume(queue, min(PAGE, limit))
    held: list[Delivery] = []
    try:
        seen = await _pages(consumer, held, min(limit, ready), visit)
        await consumer.stop()
        held += await _rest(consumer)
    finally:
        await consumer.stop()
        await broker.requeue(held)
    await _until_back(broker, queue, len(held))
    return max(0, ready - seen)  # by the depth before: brokers differ in whether it counts what is held


async def _pages(consumer: Consumer, held: list[Delivery], wanted: int, visit: Visit) -> int:
    """Visit up to `wanted` messages; what is not settled is in `held`. Returns how many were visited."""
    seen, size, prefetch = 0, 0, PAGE
    while seen < wanted and size < HELD_LIMIT_BYTES:
        page = await _take(consumer, min(PAGE, wanted - seen), QUIET_S if seen else FIRST_WITHIN_S)
        if not page:
            break
        seen += len(page)
        before = len(held)
        held += page  # while it is visited, too: an error must give it back
        held[before:] = await visit(page)
        size += sum(len(delivery.message.body) for delivery in held[before:])
        if len(held) + PAGE > prefetch and seen < wanted:
            prefetch = len(held) + PAGE
            consumer.resize(prefetch)
    return seen


async def _until_back(broker: Broker, queue: str, number: int) -> None:
    """Wait until what was given back is counted again; not for long, because somebody may have taken it already."""
    with suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            while (await broker.depth(queue)).messages < number:  # noqa: ASYNC110 - brokers tell depth only when asked
                await asyncio.sleep(BACK_EVERY_S)


async def _rest(consumer: Consumer) -> list[Delivery]:
    """Return what was sent here ahead and is not wanted any more."""
    rest: list[Delivery] = []
    while page := await _take(consumer, PAGE):
        rest += page
    return rest


async def _take(consumer: Consumer, number: int, within_s: float = QUIET_S) -> list[Delivery]:
    """Take; nothing when nothing comes: somebody else may have taken what was counted."""
    try:
        async with asyncio.timeout(within_s):
            return await consumer.take(number)
    except TimeoutError:
        return []
