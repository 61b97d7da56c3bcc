"""Reading request bodies."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from gateway.transport.body import ON_LOOP_BYTES, read_body


class Counting(ThreadPoolExecutor):
    """Counts the calls outside the event loop."""

    calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(("size", "calls"), [(1000, 0), (2 * ON_LOOP_BYTES, 1)])
async def test_a_large_compressed_body_does_not_block_the_event_loop(size: int, calls: int) -> None:
    body = os.urandom(size)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": gzip.compress(body), "more_body": False}

    executor = Counting(1)
    asyncio.get_running_loop().set_default_executor(executor)
    assert await read_body(receive, announced=None, encoding=b"gzip", limit=2 * size) == body
    assert executor.calls == calls
