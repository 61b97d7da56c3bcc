"""Waits for a condition that no event announces."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0
EVERY_S = 0.02


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Check until a condition is true; it may be a coroutine function. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not await _value_of(condition):  # noqa: ASYNC110 - see above
            await asyncio.sleep(EVERY_S)


async def _value_of(condition: Callable[[], Any]) -> Any:
    value = condition()
    return await value if inspect.isawaitable(value) else value
