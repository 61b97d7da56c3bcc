"""Waits for a condition that no event announces, and runs work in the background of a test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

PATIENCE_S = 60.0
EVERY_S = 0.02


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Check until a condition is true; it may be a coroutine function. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not await _value_of(condition):  # noqa: ASYNC110 - see above
            await asyncio.sleep(EVERY_S)


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run coroutines within the block; they are cancelled at its end."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _value_of(condition: Callable[[], Any]) -> Any:
    value = condition()
    return await value if inspect.isawaitable(value) else value
