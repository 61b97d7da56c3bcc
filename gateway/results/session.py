"""The results store while this gateway uses it: opened, swept, and closed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from broker.base import Broker
from broker.errors import MillraceError, Unavailable, Unreachable
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks
from gateway.results.store import ResultsStore

logger = logging.getLogger(__name__)


class StoreSession:
    """Opens the store and its queue of answers, again and again until that works; then sweeps the store.

    A store that cannot be used stops only the requests that need it.
    """

    def __init__(
        self, broker: Broker, results: ResultsStore, *, on_open: Callable[[str], None], sweep_s: float
    ) -> None:
        """`on_open` is called once, with the name of the queue of answers."""
        self._broker = broker
        self._results = results
        self._on_open = on_open
        self._sweep_s = sweep_s
        self._tasks = Tasks()
        self._opened_s = math.inf
        self._unavailable = "the results store is not open yet"
        self.used_bytes = 0

    @property
    def queue(self) -> str:
        """The queue of answers of this store. Raises Unavailable while the store is not open."""
        if not self._results.identity:
            raise Unavailable(f"no asynchronous requests and no idempotency keys now: {self._unavailable}")
        return self._broker.channels.stored(self._results.identity)

    @property
    def open_for_s(self) -> float:
        """Seconds since the store was opened; minus infinity while it is not."""
        return time.monotonic() - self._opened_s

    async def open(self) -> None:
        """Open the store; if that fails, go on trying in the background."""
        if not await self._try_open():
            self._tasks.spawn(self._keep_opening(), "opening the results store")

    async def close(self) -> None:
        """Stop the background work. The store itself belongs to the caller."""
        await self._tasks.cancel()

    async def _keep_opening(self) -> None:
        while not await self._try_open():  # noqa: ASYNC110 - a disk has no event
            await asyncio.sleep(TRY_AGAIN_S)

    async def _try_open(self) -> bool:
        try:
            if not self._results.identity:
                await self._results.open()
            self.used_bytes = await self._results.sweep()
            await self._broker.declare(self.queue)
        except MillraceError as exc:
            if self._unavailable != str(exc):
                logger.warning("asynchronous requests and idempotency keys are not served: %s", exc)
            self._unavailable = str(exc)
            return False
        self._unavailable, self._opened_s = "", time.monotonic()
        self._on_open(self.queue)
        self._tasks.spawn(self._sweep(), "results sweep")
        return True

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            try:
                self.used_bytes = await self._results.sweep()
            except Unreachable:
                continue
