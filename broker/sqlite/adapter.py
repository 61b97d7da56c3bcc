"""The embedded broker as an adapter of the port."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from broker.base import Broker, Consumer, Reader, Since
from broker.channels import Channels, Kind, Limits
from broker.errors import Damaged, DiskFull, Locked, Misconfigured, TryAgain
from broker.messages import STOPPED, Delivery, Depth, Message, Outcome
from broker.protocol.ids import now_us
from broker.sqlite import statements
from broker.sqlite.consumer import SqliteConsumer
from broker.sqlite.log import SqliteReader
from broker.sqlite.session import SqliteSession
from broker.support.database import Connection, Durability

logger = logging.getLogger(__name__)

WATCH_S = 0.5
TRIM_EVERY = 60  # watches

FRAGILE = frozenset({Kind.TRANSIENT, Kind.STATUS})


def open_url(url: str, channels: Channels) -> SqliteBroker:
    """Return the broker of a URL `sqlite:///path`, not opened yet; raises Misconfigured."""
    host, slash, path = url.partition("://")[2].partition("/")
    if host or not slash or not path:
        raise Misconfigured("broker.url: sqlite has three slashes before a relative path, four before an absolute one")
    return SqliteBroker(Path(unquote(path)), channels)


class SqliteBroker(Broker):
    """Queues and logs in one file, for the processes of one machine."""

    def __init__(self, path: Path, channels: Channels) -> None:
        super().__init__(channels)
        self._path = path
        self._session = SqliteSession(path, on_restored=self.upkeep.suspect_all)
        self.database = self._session.database
        self._watch: asyncio.Task[None] | None = None
        self._full = ""  # the reason why nothing can be written

    @property
    def owner(self) -> int:
        """The id of this process in the file."""
        return self._session.owner

    async def open(self) -> None:
        """Open the file; raises Misconfigured for a damaged one, because another try cannot succeed."""
        try:
            await self._session.open()
            await self._session.reclaim_from_dead_processes()
        except Damaged as exc:
            await self._session.close()
            raise Misconfigured(f"{exc}. The messages in it are lost") from exc
        self._watch = asyncio.create_task(self._keep_watch(), name="sqlite-watch")
        self.upkeep.start()

    async def close(self) -> None:
        if self._watch is None:
            return
        await self.upkeep.stop()
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self._session.leave()
        self._watch = None

    async def ping(self) -> None:
        if self.database.locked:
            raise Locked(self.database.locked)
        await self.database.run(lambda connection: connection.execute("SELECT 1").fetchone(), Durability.READ)

    @property
    def stopped_by(self) -> str:
        return self._full

    async def missing(self, channels: Sequence[str]) -> list[str]:
        there = await self.database.run(lambda connection: statements.present(connection, channels), Durability.READ)
        return [channel for channel in channels if channel not in there]

    async def _make(self, channel: str, limits: Limits) -> None:
        kind, owner = self.channels.kind(channel) if self.channels.is_ours(channel) else Kind.QUEUE, self.owner
        await self._session.run_until_done(
            lambda c: statements.declare(c, channel, kind, limits, owner), Durability.DURABLE
        )

    async def _remove(self, channel: str) -> None:
        await self.database.run(lambda connection: statements.delete(connection, channel), Durability.DURABLE)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        return await self.forward((), messages)

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        """Publish and ack in one transaction; nothing is acked if a message was refused."""
        ids, owner = [delivery.tag for delivery in deliveries], self.owner

        def work(connection: Connection) -> tuple[list[Outcome], list[tuple[int, str]]]:
            outcomes = statements.insert(connection, messages)
            if ids and all(outcome.safe for outcome in outcomes):
                statements.settle(connection, ids, owner)
            return outcomes, statements.listeners(connection, {message.queue for message in messages})

        try:
            outcomes, listeners = await self.database.run(work, self._durability(messages))
        except DiskFull as exc:  # the transaction was rolled back
            self._note_full(str(exc))
            await asyncio.sleep(0)
            return [STOPPED] * len(messages)
        self._note_full("")
        self._observe(messages, outcomes)
        if all(outcome.safe for outcome in outcomes):
            _count_settled(deliveries)
        self._session.notify(listeners)
        return list(outcomes)

    def consume(self, queue: str, prefetch: int) -> Consumer:
        return SqliteConsumer(self._session, queue, prefetch)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        ids, owner = [delivery.tag for delivery in deliveries], self.owner
        await self._session.run_until_done(lambda c: statements.settle(c, ids, owner), Durability.WRITE)
        _count_settled(deliveries)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        ids, owner = [delivery.tag for delivery in deliveries], self.owner
        await self._session.run_until_done(lambda c: statements.give_back(c, ids, owner), Durability.WRITE)
        _count_settled(deliveries)
        await self._session.wake({delivery.message.queue for delivery in deliveries})

    def origin(self, delivery: Delivery) -> bytes | None:
        """A row's id is never used again."""
        return f"{self._path.resolve()}\n{delivery.tag}".encode()

    def read(self, log: str, start: int | Since) -> Reader:
        return SqliteReader(self._session, self.upkeep, log, start)

    async def end(self, log: str) -> int:
        sql = "SELECT next_offset FROM channels WHERE name = ?"
        row = await self.database.run(lambda connection: connection.execute(sql, (log,)).fetchone(), Durability.READ)
        return row[0] if row else 0

    async def depth(self, queue: str) -> Depth:
        # A delayed message that is due counts as ready, even if no take has woken it since.
        sql = (
            "SELECT count(*), total(count) FROM waiting WHERE (owner = 0 OR (owner = -1 AND ready_at_us <= ?))"
            " AND channel = (SELECT id FROM channels WHERE name = ?)"
        )
        messages, requests = await self.database.run(
            lambda c: c.execute(sql, (now_us(), queue)).fetchone(), Durability.READ
        )
        return Depth(messages, int(requests))

    def _durability(self, messages: Sequence[Message]) -> Durability:
        """Sync to disk, which makes a commit slow, only if a message has to survive a power loss."""
        ours, kind = self.channels.is_ours, self.channels.kind
        if all(ours(message.queue) and kind(message.queue) in FRAGILE for message in messages):
            return Durability.WRITE
        return Durability.DURABLE

    async def _keep_watch(self) -> None:
        """Reclaim messages from dead processes and trim the status log, until the broker is closed."""
        watches = 0
        while True:
            await asyncio.sleep(WATCH_S)
            watches += 1
            try:
                await self._session.restore_own_entry()
                await self._session.reclaim_from_dead_processes()
                if watches % TRIM_EVERY == 0:
                    await self.database.run(lambda c: statements.trim_status(c, self.channels), Durability.WRITE)
            except (TryAgain, OSError) as exc:
                logger.warning("%s; trying again in %.1f s", exc, WATCH_S)

    def _note_full(self, reason: str) -> None:
        if reason != self._full:
            self._full = reason
            if reason:
                logger.error("%s: messages are refused until there is room", reason)
            else:
                logger.warning("%s can be written again", self._path)


def _count_settled(deliveries: Sequence[Delivery]) -> None:
    for consumer, number in Counter(delivery.consumer for delivery in deliveries).items():
        if isinstance(consumer, SqliteConsumer):
            consumer.settled(number)
