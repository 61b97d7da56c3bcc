"""Many requests on their way: so many at once, or so many a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from broker.errors import MillraceError

_T = TypeVar("_T")


async def at_once(number: int, items: Iterable[_T], one: Callable[[_T], Awaitable[None]]) -> None:
    """Do `one` for all items, for at most so many at the same time."""
    left: Iterator[_T] = iter(items)

    async def work() -> None:
        for item in left:
            await one(item)

    await _all(work() for _ in range(number))


async def paced(per_s: float, items: Iterable[_T], one: Callable[[_T], Awaitable[None]]) -> None:
    """Begin `one` for the next item at even intervals, whatever those before are doing; return when all are done."""
    begin_s = time.monotonic()

    async def work(number: int, item: _T) -> None:
        await asyncio.sleep(max(0.0, begin_s + number / per_s - time.monotonic()))
        await one(item)

    await _all(work(number, item) for number, item in enumerate(items))


async def _all(works: Iterable[Awaitable[None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_awaited(work))
    except* MillraceError as errors:
        raise errors.exceptions[0] from None


async def _awaited(work: Awaitable[None]) -> None:
    await work
