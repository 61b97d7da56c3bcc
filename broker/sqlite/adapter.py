"""The embedded broker behind the port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from broker.base import Broker, Consumer, Reader, Since
from broker.channels import Channels, Kind, Limits
from broker.errors import Damaged, DiskFull, Locked, Misconfigured, TryAgain
from broker.messages import STOPPED, Delivery, Depth, Message, Outcome
from broker.protocol.ids import now_us
from broker.sqlite import statements
from broker.sqlite.consumer import SqliteConsumer
from broker.sqlite.log import SqliteReader
from broker.sqlite.ownership import Ownership
from broker.sqlite.schema import SCHEMA
from broker.sqlite.wakeup import Wakeups
from broker.support.database import Connection, Database, Durability, Work, run
from broker.support.tasks import Tasks

log = logging.getLogger(__name__)

WATCH_S = 0.5
LOCKED_PAUSE_S = 0.5
TRIM_EVERY = 60  # watches

LISTEN = "INSERT OR REPLACE INTO listeners VALUES (?, ?, ?)"

FRAGILE = frozenset({Kind.TRANSIENT, Kind.STATUS})


class SqliteBroker(Broker):
    """Queues and logs in one file, for the processes of one machine."""

    def __init__(self, path: Path, channels: Channels) -> None:
        super().__init__(channels)
        self.database = Database(path, SCHEMA, anew=self._enter_anew)
        self._path = path
        self._ownership = Ownership(path)
        self._wakeups = Wakeups()
        self._listening: Counter[str] = Counter()
        self._watch: asyncio.Task[None] | None = None
        self._unseen = Tasks()
        self._full = ""  # why nothing can be written

    @property
    def owner(self) -> int:
        """This process's number in the file."""
        return self._ownership.id

    async def open(self) -> None:
        """See the port; a damaged file is Misconfigured, because no other try will mend it."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._open()
        except Damaged as exc:
            self._wakeups.close()
            await self.database.close()
            self._ownership.unlock()
            raise Misconfigured(f"{exc}. What waited in it is lost") from exc

    async def _open(self) -> None:
        await self.database.open()
        await self._wakeups.open()
        port = self._wakeups.port
        await self.database.run(lambda connection: self._ownership.claim(connection, port), Durability.WRITE)
        await self._bury_the_dead()
        self._watch = asyncio.create_task(self._keep_watch(), name="sqlite-watch")
        self.upkeep.start()

    async def close(self) -> None:
        """See the port."""
        if self._watch is None:
            return
        await self.upkeep.stop()
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        with contextlib.suppress(TryAgain):  # whoever can write next finds this process's lock free, and gives it back
            woken = await self.database.run(self._ownership.leave, Durability.WRITE)
            await self._call(woken)
        await self.database.close()
        self._ownership.unlock()
        self._wakeups.close()
        self._watch = None

    async def ping(self) -> None:
        """See the port."""
        if self.database.locked:
            raise Locked(self.database.locked)
        await self.database.run(lambda connection: connection.execute("SELECT 1").fetchone(), Durability.READ)

    @property
    def stopped_by(self) -> str:
        """Return why the file cannot be written."""
        return self._full

    async def missing(self, channels: Sequence[str]) -> list[str]:
        """See the port."""
        there = await self.database.run(lambda connection: statements.present(connection, channels), Durability.READ)
        return [channel for channel in channels if channel not in there]

    async def _make(self, channel: str, limits: Limits) -> None:
        kind, owner = self.channels.kind(channel) if self.channels.is_ours(channel) else Kind.QUEUE, self.owner
        await self._insist(lambda c: statements.declare(c, channel, kind, limits, owner), Durability.DURABLE)

    async def _remove(self, channel: str) -> None:
        await self.database.run(lambda connection: statements.delete(connection, channel), Durability.DURABLE)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """See the port."""
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
            outcomes, ears = await self.database.run(work, self._care(messages))
        except DiskFull as exc:  # the transaction was undone: nothing of it is there
            self._note_full(str(exc))
            await asyncio.sleep(0)
            return [STOPPED] * len(messages)
        self._note_full("")
        self._observe(messages, outcomes)
        if all(outcome.safe for outcome in outcomes):
            _count_settled(deliveries)
        self._tell(ears)
        return list(outcomes)

    def consume(self, queue: str, prefetch: int) -> Consumer:
        """See the port."""
        return SqliteConsumer(self, queue, prefetch)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See the port."""
        ids, owner = [delivery.tag for delivery in deliveries], self.owner
        await self._insist(lambda connection: statements.settle(connection, ids, owner), Durability.WRITE)
        _count_settled(deliveries)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """See the port."""
        ids, owner = [delivery.tag for delivery in deliveries], self.owner
        await self._insist(lambda connection: statements.give_back(connection, ids, owner), Durability.WRITE)
        _count_settled(deliveries)
        await self._call({delivery.message.queue for delivery in deliveries})

    def origin(self, delivery: Delivery) -> bytes | None:
        """A row's number is never used again."""
        return f"{self._path.resolve()}\n{delivery.tag}".encode()

    def give_back_unseen(self, ids: list[int]) -> None:
        """Return messages whose take was cancelled: nobody has seen them, so they did not come back."""
        owner = self.owner
        sql = "UPDATE waiting SET owner = 0 WHERE owner = ? AND id IN (SELECT value FROM json_each(?))"
        given = orjson.dumps(ids).decode()
        self._unseen.spawn(
            self._insist(lambda connection: run(connection, sql, (owner, given)), Durability.WRITE), "unseen"
        )

    def read(self, log: str, start: int | Since) -> Reader:
        """See the port."""
        return SqliteReader(self, log, start)

    async def end(self, log: str) -> int:
        """See the port."""
        sql = "SELECT next_offset FROM channels WHERE name = ?"
        row = await self.database.run(lambda connection: connection.execute(sql, (log,)).fetchone(), Durability.READ)
        return row[0] if row else 0

    async def depth(self, queue: str) -> Depth:
        """See the port."""
        # A delayed message whose time has come is ready, even if nobody has taken since and woken it.
        sql = (
            "SELECT count(*), total(count) FROM waiting WHERE (owner = 0 OR (owner = -1 AND ready_at_us <= ?))"
            " AND channel = (SELECT id FROM channels WHERE name = ?)"
        )
        messages, requests = await self.database.run(
            lambda c: c.execute(sql, (now_us(), queue)).fetchone(), Durability.READ
        )
        return Depth(messages, int(requests))

    async def listen(self, channel: str) -> asyncio.Event:
        """Return an event that is set when any process writes to `channel`."""
        event = self._wakeups.listen(channel)
        self._listening[channel] += 1
        if self._listening[channel] == 1:
            mine = (channel, self.owner, self._wakeups.port)
            try:
                await self.database.run(lambda connection: run(connection, LISTEN, mine), Durability.WRITE)
            except Locked:
                self._wakeups.forget(channel, event)
                self._listening[channel] -= 1
                raise
        return event

    async def deafen(self, channel: str, event: asyncio.Event) -> None:
        """Undo `listen`."""
        self._wakeups.forget(channel, event)
        self._listening[channel] -= 1
        if self._listening[channel] == 0:
            mine = (channel, self.owner)
            sql = "DELETE FROM listeners WHERE channel = ? AND owner = ?"
            with contextlib.suppress(TryAgain):  # a call too many does no harm, and the row goes with this process
                await self.database.run(lambda connection: run(connection, sql, mine), Durability.WRITE)

    async def _insist(self, work: Work, care: Durability) -> None:
        """Run a job that cannot fail for its caller: while another process keeps the lock, again and again."""
        while True:
            try:
                await self.database.run(work, care)
            except Locked:
                await asyncio.sleep(LOCKED_PAUSE_S)
            else:
                return

    def _care(self, messages: Sequence[Message]) -> Durability:
        """Power loss matters for durable messages only; it is what a commit pays its fsync for."""
        ours, kind = self.channels.is_ours, self.channels.kind
        if all(ours(message.queue) and kind(message.queue) in FRAGILE for message in messages):
            return Durability.WRITE
        return Durability.DURABLE

    def _tell(self, ears: Iterable[tuple[int, str]]) -> None:
        by_port: defaultdict[int, list[str]] = defaultdict(list)
        for port, channel in ears:
            by_port[port].append(channel)
        for port, channels in by_port.items():
            self._wakeups.call(port, channels)

    async def _call(self, names: Iterable[str]) -> None:
        if wanted := list(names):
            self._tell(await self.database.run(lambda c: statements.listeners(c, wanted), Durability.READ))

    async def _bury_the_dead(self) -> None:
        if await self.database.run(self._ownership.any_dead, Durability.READ):
            await self._call(await self.database.run(self._ownership.bury_the_dead, Durability.WRITE))

    async def _keep_watch(self) -> None:
        """Look for dead processes and trim the status log, for as long as the broker is open."""
        watches = 0
        while True:
            await asyncio.sleep(WATCH_S)
            watches += 1
            try:
                await self._keep_own_entry()
                await self._bury_the_dead()
                if watches % TRIM_EVERY == 0:
                    await self.database.run(lambda c: statements.trim_status(c, self.channels), Durability.WRITE)
            except (TryAgain, OSError) as exc:
                log.warning("%s; the next look tries again", exc)

    async def _keep_own_entry(self) -> None:
        if await self.database.run(self._ownership.is_whole, Durability.READ):
            return
        log.error("%s: the entry or the lock file of this process was removed; it is made again", self._path)
        await self.database.run(self._enter_anew, Durability.WRITE)

    def _enter_anew(self, connection: Connection) -> None:
        """Enter the file as the process that we were. Runs in the thread of the database."""
        self._ownership.restore(connection, self._wakeups.port)
        for channel, number in list(self._listening.items()):
            if number > 0:
                run(connection, LISTEN, (channel, self.owner, self._wakeups.port))
        self._loop.call_soon_threadsafe(self.upkeep.suspect_all)

    def _note_full(self, why: str) -> None:
        if why != self._full:
            self._full = why
            log.error("%s: nothing is taken until there is room", why) if why else log.warning(
                "%s can be written again", self._path
            )


def _count_settled(deliveries: Sequence[Delivery]) -> None:
    for consumer, number in Counter(delivery.consumer for delivery in deliveries).items():
        if isinstance(consumer, SqliteConsumer):
            consumer.settled(number)
