"""Taking from a queue of the embedded broker."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from broker.base import Consumer
from broker.errors import Locked, TryAgain
from broker.messages import Delivery
from broker.sqlite import properties, statements
from broker.support.database import Durability

if TYPE_CHECKING:
    from broker.sqlite.adapter import SqliteBroker

log = logging.getLogger(__name__)

POLL_S = 0.5


class SqliteConsumer(Consumer):
    """Takes when it is asked to, so it holds nothing that nobody wanted."""

    def __init__(self, broker: SqliteBroker, queue: str, prefetch: int) -> None:
        self.queue = queue
        self._broker = broker
        self._prefetch = prefetch
        self._held = 0
        self._stopped = False
        self._wake: asyncio.Event | None = None
        self._trouble = ""

    async def take(self, limit: int) -> list[Delivery]:
        """See the port."""
        while not self._stopped:
            wake = await self._listen()
            wake.clear()
            room = min(limit, self._prefetch - self._held)
            pause_s = POLL_S
            if room > 0:
                rows, pause_s = await self._take_or_wait(room)
                if rows:
                    return [self._delivery(row) for row in rows]
            await _wait(wake, min(pause_s, POLL_S))
        return []

    @property
    def trouble(self) -> str:
        """Return why the last take failed."""
        return self._trouble

    async def _take_or_wait(self, room: int) -> tuple[list[statements.Row], float]:
        """Take; a file that cannot be used now is tried again: a full disk, or a lock that another process holds."""
        try:
            taken = await self._take(room)
        except TryAgain as exc:
            if not self._trouble:
                log.warning("%s: nothing can be taken now: %s; trying again", self.queue, exc)
            self._trouble = str(exc)
            return [], POLL_S
        self._trouble = ""
        return taken

    async def _listen(self) -> asyncio.Event:
        """Return the event that says that the queue has something; one that is never set while the file is locked."""
        if self._wake is None:
            try:
                self._wake = await self._broker.listen(self.queue)
            except Locked:
                return asyncio.Event()
        return self._wake

    async def stop(self) -> None:
        """See the port."""
        if self._stopped:
            return
        self._stopped = True
        if self._wake is not None:
            self._wake.set()
            await self._broker.deafen(self.queue, self._wake)

    def resize(self, prefetch: int) -> None:
        """See the port."""
        self._prefetch = prefetch
        self._stir()

    def settled(self, number: int) -> None:
        """Count messages that are no longer held."""
        self._held -= number
        self._stir()

    def _stir(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _take(self, room: int) -> tuple[list[statements.Row], float]:
        """Take in a job that is finished even if the caller is cancelled: what it took must not be forgotten."""
        owner = self._broker.owner
        self._held += room
        future = self._broker.database.run(
            lambda connection: statements.take(connection, self.queue, owner, room), Durability.WRITE
        )
        try:
            rows, pause_s = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: self._return(done, room))
            raise
        except Locked:  # another process hangs with the lock: this one waits, as for a broker that is away
            self._held -= room
            return [], POLL_S
        except BaseException:
            self._held -= room
            raise
        self._held -= room - len(rows)
        return rows, pause_s

    def _return(self, done: asyncio.Future[tuple[list[statements.Row], float]], room: int) -> None:
        self._held -= room
        if not done.cancelled() and done.exception() is None and (ids := [row[0] for row in done.result()[0]]):
            self._broker.give_back_unseen(ids)

    def _delivery(self, row: statements.Row) -> Delivery:
        number, came_back, count, header, body, packed = row
        return Delivery(properties.unpack(packed, self.queue, header, body, count), number, came_back, self)


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return
