"""Runs many requests, at most a number of them at a time, or a number of them per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from broker.errors import MillraceError

_T = TypeVar("_T")


async def at_once(number: int, items: Iterable[_T], one: Callable[[_T], Awaitable[None]]) -> None:
    """Call `one` for all items, for at most `number` of them at a time."""
    left: Iterator[_T] = iter(items)

    async def work() -> None:
        for item in left:
            await one(item)

    await _run_all(work() for _ in range(number))


async def paced(per_s: float, items: Iterable[_T], one: Callable[[_T], Awaitable[None]]) -> None:
    """Start `one` for the items at even intervals, even if earlier ones still run; return when all are done."""
    begin_s = time.monotonic()

    async def work(number: int, item: _T) -> None:
        await asyncio.sleep(max(0.0, begin_s + number / per_s - time.monotonic()))
        await one(item)

    await _run_all(work(number, item) for number, item in enumerate(items))


async def _run_all(works: Iterable[Awaitable[None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_awaited(work))
    except* MillraceError as errors:
        raise errors.exceptions[0] from None


async def _awaited(work: Awaitable[None]) -> None:
    await work
