"""Steps of contract tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from broker.base import Broker, Consumer, Reader
from broker.messages import SAFE, Delivery, Message, Outcome, Record
from tests.contract.installation import DEADLINE_S


async def take(consumer: Consumer, number: int = 1) -> list[Delivery]:
    """Take exactly `number` messages, within `DEADLINE_S`."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < number:
            taken += await consumer.take(number - len(taken))
    return taken


async def read(reader: Reader, number: int) -> list[Record]:
    """Read exactly `number` records, within `DEADLINE_S`."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < number:
            records += await reader.read(number - len(records))
    return records


def bodies(things: Sequence[Record] | Sequence[Delivery]) -> list[bytes]:
    """Return the bodies of records or deliveries."""
    return [thing.body if isinstance(thing, Record) else thing.message.body for thing in things]


async def nothing_comes(consumer: Consumer, for_s: float = 0.3) -> bool:
    """Return True if a consumer receives nothing for `for_s` seconds."""
    try:
        async with asyncio.timeout(for_s):
            await consumer.take(1)
    except TimeoutError:
        return True
    return False


async def fill(broker: Broker, message: Message, most: int) -> Outcome:
    """Publish one message at a time until the broker refuses one, at most `most`; return the last outcome."""
    for _ in range(most):
        (outcome,) = await broker.publish([message])
        if not outcome.safe:
            return outcome
    return SAFE


async def until(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Repeat a question until the answer is `wanted`, within `DEADLINE_S`."""
    async with asyncio.timeout(DEADLINE_S):
        while await ask() != wanted:  # noqa: ASYNC110 - the state of another process has no event
            await asyncio.sleep(0.02)
