"""A subscription to a queue or stream that is kept up: what arrives is buffered, what is lost is subscribed again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from broker.errors import Refused, TryAgain
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.connection import Backoff, RabbitConnection
from broker.rabbitmq.frames import DELIVER, Contents, ack_frame, read_deliver, requeue_frame
from broker.support.upkeep import Upkeep

LOG = logging.getLogger(__name__)
PREFETCH_LIMIT = 65_535
QUIET_S = 0.05
SETTLE_S = 0.3


class Arrival(NamedTuple):
    """A delivery as it came."""

    session: Session
    tag: int
    came_back: bool
    properties: bytes
    body: bytes


class Session(Contents):
    """One channel's deliveries. They die with it: what is unsettled then is delivered again, to anybody."""

    CONTENT = DELIVER

    def __init__(self, channel: Channel, arrivals: deque[Arrival], arrived: asyncio.Event) -> None:
        super().__init__()
        self.channel = channel
        self._arrivals = arrivals
        self._arrived = arrived
        self._outstanding: dict[int, None] = {}  # tags that are not settled, in order
        self.arrived = 0
        self._stopped = False
        self._holding: list[int] | None = None  # acks that wait until a consumer is cancelled

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        """Buffer a delivery."""
        tag, came_back = read_deliver(method)
        self._outstanding[tag] = None
        self.arrived += 1
        self._arrivals.append(Arrival(self, tag, came_back, properties, body))
        self._arrived.set()

    def ack(self, tags: Iterable[int]) -> None:
        """Settle for good: the oldest together, the others one by one, in a single write."""
        if self._holding is not None:
            self._holding.extend(tags)
            return
        settled = self._settle(tags)
        if not settled or self.channel.closed.done():
            return
        oldest = next(iter(self._outstanding), None)
        together = [tag for tag in settled if oldest is None or tag < oldest]
        frames = [ack_frame(self.channel.number, tag, multiple=False) for tag in settled if oldest and tag > oldest]
        if together:
            frames.insert(0, ack_frame(self.channel.number, max(together), multiple=True))
        self.channel.send(b"".join(frames))
        self._close_when_done()

    def requeue(self, tags: Iterable[int]) -> None:
        """Give back."""
        settled = self._settle(tags)
        if settled:
            self.channel.send(b"".join(requeue_frame(self.channel.number, tag) for tag in settled))
            self._close_when_done()

    def stop(self) -> None:
        """Note that no more will come: the channel closes once all is settled."""
        self._stopped = True
        self._close_when_done()

    async def quieten(self) -> None:
        """Return once nothing is on its way: what a cancelled consumer is being sent comes back, counted.

        An ack makes room for another delivery, so acks are held until `resume`.
        """
        self._holding = []
        seen = -1
        while seen != self.arrived:
            seen = self.arrived
            await asyncio.sleep(QUIET_S)

    def resume(self) -> None:
        """Send the acks that were held."""
        held, self._holding = self._holding or [], None
        self.ack(held)

    def _settle(self, tags: Iterable[int]) -> list[int]:
        """Return the tags that were outstanding: settling one twice would make the broker close the channel."""
        outstanding = self._outstanding
        return [tag for tag in tags if outstanding.pop(tag, tag) is None]

    def _close_when_done(self) -> None:
        if self._stopped and not self._outstanding:
            self.channel.close()


class RabbitSubscription(ABC):
    """Owns the task that subscribes. If that task dies, `wait` raises its error."""

    def __init__(
        self, connection: RabbitConnection, upkeep: Upkeep, queue: str, prefetch: int, timeout_s: float
    ) -> None:
        self._connection = connection
        self._upkeep = upkeep
        self._queue = queue
        self.trouble = "it has not subscribed yet"
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._arrivals: deque[Arrival] = deque()
        self._arrived = asyncio.Event()
        self._nudged = asyncio.Event()
        self._cancelled = False
        self._stopping = False
        self._was_missing = False
        self._session: Session | None = None
        self._tags: list[str] = []
        self._applied = 0
        self._task = asyncio.create_task(self._run(), name=f"subscription to {queue}")
        self._task.add_done_callback(lambda _: self._arrived.set())

    @abstractmethod
    async def _prepare(self) -> None:
        """Do what has to be done before each attempt."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Return the arguments to consume with."""

    async def wait(self) -> bool:
        """Return once something has arrived, or there is news; False when nothing will arrive any more."""
        while not self._arrivals and not self._has_news():
            if self._task.done():
                self._raise_death()
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    def _has_news(self) -> bool:
        """Tell whether there is something to say beside what has arrived."""
        return False

    async def stop(self) -> None:
        """Ask for no more; what has arrived stays."""
        self._stopping = True
        self._nudged.set()
        await asyncio.wait((self._task,), timeout=self._timeout_s)

    async def close(self) -> None:
        """Let go, and give back what is held."""
        self._stopping = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._arrivals.clear()
        if self._session is not None:
            self._session.channel.close()

    def pop(self, limit: int) -> list[Arrival]:
        """Remove and return up to `limit` of what has arrived."""
        arrivals = self._arrivals
        return [arrivals.popleft() for _ in range(min(limit, len(arrivals)))]

    def resize(self, prefetch: int) -> None:
        """Change the prefetch, soon."""
        self._prefetch = prefetch
        self._nudged.set()

    def _raise_death(self) -> None:
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None:
            raise error

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping:
            try:
                await self._prepare()
                session = await self._subscribe()
                self._was_missing = False
                backoff.reset()
                await self._serve(session)
            except TryAgain as exc:
                self._arrivals.clear()
                if isinstance(exc, NoQueue):
                    self._was_missing = True
                    self._upkeep.suspect([self._queue])
                await self._pause(backoff, exc)

    async def _pause(self, backoff: Backoff, error: TryAgain) -> None:
        wait_s = backoff.next_s()
        is_news = isinstance(error, Refused) and str(error) != self.trouble
        LOG.log(logging.ERROR if is_news else logging.INFO, "%s; trying again in %.2f s", error, wait_s)
        self.trouble = str(error)
        self._nudged.clear()
        if not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._nudged.wait()

    async def _subscribe(self) -> Session:
        wire = await self._connection.wire()
        channel = await Channel.open(wire, f"consuming {self._queue}", self._timeout_s)
        session = Session(channel, self._arrivals, self._arrived)
        channel.take_frames(session)
        channel.on_cancel(self._on_cancel)
        self._cancelled = False
        self._tags, self._applied = [], 0
        self._session = session
        await self._consume(session)
        return session

    async def _consume(self, session: Session) -> None:
        """Bring the subscription to its prefetch: more is a further consumer beside the ones there are.

        Less needs a new one in their place, once nothing is on its way to them: callers should ask for less only
        when it matters.
        """
        wanted = max(1, min(self._prefetch, PREFETCH_LIMIT))
        if wanted < self._applied:
            await self._cancel(session)
        # Per consumer, not per channel: quorum queues refuse the other kind.
        await session.channel.call("basic_qos", prefetch_count=wanted - self._applied)
        answer = await session.channel.call(
            "basic_consume", queue=self._queue, on_message_callback=_unused, arguments=self._arguments()
        )
        self._tags.append(answer.method.consumer_tag)
        self._applied = wanted
        self.trouble = ""
        session.resume()

    async def _cancel(self, session: Session) -> None:
        """End all consumers, so that nothing comes back; acks stay held until the session resumes."""
        await session.quieten()
        for tag in self._tags:
            await session.channel.call("basic_cancel", consumer_tag=tag)
        self._tags, self._applied = [], 0

    def _on_cancel(self) -> None:
        self._cancelled = True
        self._nudged.set()

    async def _serve(self, session: Session) -> None:
        """Stay with a session until it is stopped; raises TryAgain when it ends by itself."""
        channel = session.channel
        channel.closed.add_done_callback(lambda _: self._nudged.set())
        while not channel.closed.done():
            if self._cancelled:
                channel.close()
                raise NoQueue(f"{self._queue} was deleted")
            if self._stopping:
                await self._cancel(session)
                session.resume()
                session.stop()
                return
            if self._applied != max(1, min(self._prefetch, PREFETCH_LIMIT)):
                await self._consume(session)
            await self._nudged.wait()
            self._nudged.clear()
        # Whatever the reason: this subscription has worked, so it can again.
        raise TryAgain(str(channel.closed.result()))


def _unused(*_: object) -> None:
    """Stand where pika wants a callback: the session takes the deliveries."""
