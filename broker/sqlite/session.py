"""This process's use of the broker file: its entry among the owners, its wake-ups, and the jobs that it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import orjson

from broker.errors import Locked, TryAgain
from broker.sqlite import statements
from broker.sqlite.ownership import Ownership
from broker.sqlite.schema import SCHEMA
from broker.sqlite.wakeup import Wakeups
from broker.support.backoff import TRY_AGAIN_S
from broker.support.database import Connection, Database, Durability, Work, run
from broker.support.tasks import Tasks

logger = logging.getLogger(__name__)

LISTEN = "INSERT OR REPLACE INTO listeners VALUES (?, ?, ?)"
UNLISTEN = "DELETE FROM listeners WHERE channel = ? AND owner = ?"
GIVE_BACK_UNSEEN = "UPDATE waiting SET owner = 0 WHERE owner = ? AND id IN (SELECT value FROM json_each(?))"


class SqliteSession:
    """Shared by the broker, its consumers and its readers."""

    def __init__(self, path: Path, *, on_restored: Callable[[], None]) -> None:
        """`on_restored` is called on the event loop after a removed file was made again."""
        self.database = Database(path, SCHEMA, on_recreated=self._restore)
        self._path = path
        self._on_restored = on_restored
        self._ownership = Ownership(path)
        self._wakeups = Wakeups()
        self._listening: Counter[str] = Counter()
        self._tasks = Tasks()

    @property
    def owner(self) -> int:
        """The id of this process in the file."""
        return self._ownership.id

    async def open(self) -> None:
        """Open the file and enter this process among its owners."""
        self._loop = asyncio.get_running_loop()
        await self.database.open()
        await self._wakeups.open()
        port = self._wakeups.port
        await self.database.run(lambda connection: self._ownership.claim(connection, port), Durability.WRITE)

    async def leave(self) -> None:
        """Give back all held messages, and close the file."""
        # If the file cannot be written now, the next process that can gives the messages back: the lock is free then.
        with contextlib.suppress(TryAgain):
            woken = await self.database.run(self._ownership.leave, Durability.WRITE)
            await self.wake(woken)
        await self.close()

    async def close(self) -> None:
        """Close the file without giving anything back."""
        await self.database.close()
        self._ownership.unlock()
        self._wakeups.close()

    async def run_until_done(self, work: Work, durability: Durability) -> None:
        """Run a job that must not fail for its caller: repeat it while another process holds the write lock."""
        while True:
            try:
                await self.database.run(work, durability)
            except Locked:
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return

    async def listen(self, channel: str) -> asyncio.Event:
        """Return an event that is set when any process writes to `channel`; raises Locked."""
        event = self._wakeups.listen(channel)
        self._listening[channel] += 1
        if self._listening[channel] == 1:
            entry = (channel, self.owner, self._wakeups.port)
            try:
                await self.database.run(lambda connection: run(connection, LISTEN, entry), Durability.WRITE)
            except Locked:
                self._wakeups.forget(channel, event)
                self._listening[channel] -= 1
                raise
        return event

    async def unlisten(self, channel: str, event: asyncio.Event) -> None:
        """Undo `listen`."""
        self._wakeups.forget(channel, event)
        self._listening[channel] -= 1
        if self._listening[channel] == 0:
            entry = (channel, self.owner)
            # If this fails, superfluous wake-ups do no harm, and the row is deleted with this process's entry.
            with contextlib.suppress(TryAgain):
                await self.database.run(lambda connection: run(connection, UNLISTEN, entry), Durability.WRITE)

    def notify(self, listeners: Iterable[tuple[int, str]]) -> None:
        """Wake the listeners, given as (port, channel)."""
        by_port: defaultdict[int, list[str]] = defaultdict(list)
        for port, channel in listeners:
            by_port[port].append(channel)
        for port, channels in by_port.items():
            self._wakeups.notify(port, channels)

    async def wake(self, channels: Iterable[str]) -> None:
        """Wake all listeners of these channels."""
        if names := list(channels):
            self.notify(await self.database.run(lambda c: statements.listeners(c, names), Durability.READ))

    def give_back_unseen(self, ids: Sequence[int]) -> None:
        """Give back messages whose take was cancelled, in the background.

        They do not count as having come back, because no caller received them.
        """
        owner, numbers = self.owner, orjson.dumps(list(ids)).decode()
        work = self.run_until_done(
            lambda connection: run(connection, GIVE_BACK_UNSEEN, (owner, numbers)), Durability.WRITE
        )
        self._tasks.spawn(work, "give-back-unseen")

    async def reclaim_from_dead_processes(self) -> None:
        """Make the messages ready again that dead processes held."""
        if await self.database.run(self._ownership.any_dead, Durability.READ):
            await self.wake(await self.database.run(self._ownership.reclaim_from_dead_processes, Durability.WRITE))

    async def restore_own_entry(self) -> None:
        """Make this process's entry and its lock file again if they were removed."""
        if await self.database.run(self._ownership.is_whole, Durability.READ):
            return
        logger.error("%s: the entry or the lock file of this process was removed; it is made again", self._path)
        await self.database.run(self._restore, Durability.WRITE)

    def _restore(self, connection: Connection) -> None:
        """Enter the file again with the same id and the same listeners. Runs in the thread of the database."""
        self._ownership.restore(connection, self._wakeups.port)
        for channel, number in list(self._listening.items()):
            if number > 0:
                run(connection, LISTEN, (channel, self.owner, self._wakeups.port))
        self._loop.call_soon_threadsafe(self._on_restored)
