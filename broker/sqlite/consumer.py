"""Taking from a queue of the embedded broker."""

from __future__ import annotations

import asyncio
import logging

from broker.base import Consumer
from broker.errors import Locked, TryAgain
from broker.messages import Delivery
from broker.sqlite import properties, statements
from broker.sqlite.session import SqliteSession
from broker.support.database import Durability
from broker.support.tasks import wait_for_event

logger = logging.getLogger(__name__)

POLL_S = 0.5


class SqliteConsumer(Consumer):
    """Fetches only on demand, so it never holds unrequested messages."""

    def __init__(self, session: SqliteSession, queue: str, prefetch: int) -> None:
        self.queue = queue
        self._session = session
        self._prefetch = prefetch
        self._held = 0
        self._stopped = False
        self._wake: asyncio.Event | None = None
        self._trouble = ""

    async def take(self, limit: int) -> list[Delivery]:
        while not self._stopped:
            wake = await self._listen()
            wake.clear()
            room = min(limit, self._prefetch - self._held)
            pause_s = POLL_S
            if room > 0:
                rows, pause_s = await self._take_or_wait(room)
                if rows:
                    return [self._delivery(row) for row in rows]
            await wait_for_event(wake, min(pause_s, POLL_S))
        return []

    @property
    def trouble(self) -> str:
        return self._trouble

    async def _take_or_wait(self, room: int) -> tuple[list[statements.Row], float]:
        """Take up to `room` messages; return none, and the pause until the next try, if the file cannot be used now."""
        try:
            taken = await self._take(room)
        except TryAgain as exc:
            if not self._trouble:
                logger.warning("%s: nothing can be taken now: %s; trying again", self.queue, exc)
            self._trouble = str(exc)
            return [], POLL_S
        self._trouble = ""
        return taken

    async def _listen(self) -> asyncio.Event:
        """Return the event that is set when the queue has messages; while the file is locked, one that is never set."""
        if self._wake is None:
            try:
                self._wake = await self._session.listen(self.queue)
            except Locked:
                return asyncio.Event()
        return self._wake

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._wake is not None:
            self._wake.set()
            await self._session.unlisten(self.queue, self._wake)

    def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._set_wake()

    def settled(self, number: int) -> None:
        """Note that `number` messages are no longer held."""
        self._held -= number
        self._set_wake()

    def _set_wake(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def _take(self, room: int) -> tuple[list[statements.Row], float]:
        """Take in a job that runs to its end even if the caller is cancelled; its messages are given back then."""
        owner = self._session.owner
        self._held += room
        future = self._session.database.run(
            lambda connection: statements.take(connection, self.queue, owner, room), Durability.WRITE
        )
        try:
            rows, pause_s = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: self._give_back(done, room))
            raise
        except Locked:  # another process hangs with the lock: wait as for a broker that does not answer
            self._held -= room
            return [], POLL_S
        except BaseException:
            self._held -= room
            raise
        self._held -= room - len(rows)
        return rows, pause_s

    def _give_back(self, done: asyncio.Future[tuple[list[statements.Row], float]], room: int) -> None:
        self._held -= room
        if not done.cancelled() and done.exception() is None and (ids := [row[0] for row in done.result()[0]]):
            self._session.give_back_unseen(ids)

    def _delivery(self, row: statements.Row) -> Delivery:
        number, came_back, count, header, body, packed = row
        return Delivery(properties.unpack(packed, self.queue, header, body, count), number, came_back, self)
