"""The clients of this gateway that wait for answers of stored requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from broker.protocol.header import Answer

DRAIN_CHECK_S = 0.1

WaitForAnswer: TypeAlias = Callable[[], Awaitable[Answer | None]]


class AnswerWaits:
    """Futures by uid; several clients may wait for one request."""

    def __init__(self) -> None:
        self._futures: dict[bytes, set[asyncio.Future[Answer]]] = {}
        self.stopping = False

    def __len__(self) -> int:
        return sum(map(len, self._futures.values()))

    def uids(self) -> list[bytes]:
        """The requests whose answers are waited for."""
        return list(self._futures)

    @asynccontextmanager
    async def expect(
        self, uid: bytes, wait_s: float, client_disconnected: asyncio.Future[None] | None = None
    ) -> AsyncIterator[WaitForAnswer]:
        """Catch an answer that arrives from here on.

        The yielded function waits for it, for at most `wait_s` seconds or until the client disconnects, and returns
        None if there is none by then.
        """
        if wait_s <= 0:
            yield _no_answer
            return
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(uid, set()).add(future)

        async def wait() -> Answer | None:
            ends = (future,) if client_disconnected is None else (future, client_disconnected)
            await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() and not future.cancelled() else None

        try:
            yield wait
        finally:
            future.cancel()
            self._futures[uid].discard(future)
            if not self._futures[uid]:
                del self._futures[uid]

    def resolve(self, answer: Answer) -> None:
        """Give an answer to every client that waits for it."""
        for future in self._futures.get(answer.uid, ()):
            if not future.done():
                future.set_result(answer)

    async def drained(self, grace_s: float) -> None:
        """Wait until no client waits, for at most `grace_s` seconds."""
        until = time.monotonic() + grace_s
        while self._futures and time.monotonic() < until:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(DRAIN_CHECK_S)

    def give_up(self) -> None:
        """End every wait because the gateway stops. The requests themselves go on."""
        self.stopping = True
        for futures in self._futures.values():
            for future in futures:
                future.cancel()


async def _no_answer() -> Answer | None:
    return None
