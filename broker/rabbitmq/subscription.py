"""Keeps a queue or stream subscribed: buffers its deliveries, and subscribes again after a loss."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from broker.errors import Refused, TryAgain
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.connection import RabbitConnection, reconnect_backoff
from broker.rabbitmq.session import Arrival, ArrivalBuffer, Session
from broker.support.backoff import Backoff
from broker.support.tasks import wait_for_event
from broker.support.upkeep import Upkeep

logger = logging.getLogger(__name__)

PREFETCH_LIMIT = 65_535
SETTLE_S = 0.3


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
        self._buffer = ArrivalBuffer()
        self._changed = asyncio.Event()
        self._stopping = False
        self._was_missing = False
        self._session: Session | None = None
        self._task = asyncio.create_task(self._run(), name=f"subscription to {queue}")
        self._task.add_done_callback(lambda _: self._buffer.filled.set())

    @abstractmethod
    async def _prepare(self) -> None:
        """Prepare an attempt to subscribe; raises TryAgain if it would be in vain."""

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of `basic.consume`."""

    async def wait(self) -> bool:
        """Return True once something has arrived or there is news; False if nothing will arrive any more."""
        while not self._buffer and not self._has_news():
            if self._task.done():
                self._raise_error()
                return False
            await self._buffer.wait()
        return True

    def _has_news(self) -> bool:
        """Return True if the reader needs to know something besides the arrivals."""
        return False

    async def stop(self) -> None:
        """Cancel the consumers; arrivals stay in the buffer."""
        self._stopping = True
        self._changed.set()
        await asyncio.wait((self._task,), timeout=self._timeout_s)

    async def close(self) -> None:
        """Close the channel, which gives back all held deliveries."""
        self._stopping = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._buffer.arrivals.clear()
        if self._session is not None:
            self._session.channel.close()

    def pop(self, limit: int) -> list[Arrival]:
        """Remove and return the oldest arrivals, at most `limit`."""
        return self._buffer.pop(limit)

    def resize(self, prefetch: int) -> None:
        """Change the prefetch soon."""
        self._prefetch = prefetch
        self._changed.set()

    def _raise_error(self) -> None:
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None:
            raise error

    async def _run(self) -> None:
        backoff = reconnect_backoff()
        while not self._stopping:
            try:
                await self._prepare()
                session = await self._subscribe()
                self._was_missing = False
                backoff.reset()
                await self._serve(session)
            except TryAgain as exc:
                self._buffer.arrivals.clear()
                if isinstance(exc, NoQueue):
                    self._was_missing = True
                    self._upkeep.suspect([self._queue])
                await self._pause(backoff, exc)

    async def _pause(self, backoff: Backoff, error: TryAgain) -> None:
        wait_s = backoff.next_s()
        is_news = isinstance(error, Refused) and str(error) != self.trouble
        logger.log(logging.ERROR if is_news else logging.INFO, "%s; trying again in %.2f s", error, wait_s)
        self.trouble = str(error)
        self._changed.clear()
        if not self._stopping:
            await wait_for_event(self._changed, wait_s)

    async def _subscribe(self) -> Session:
        amqp = await self._connection.amqp()
        channel = await Channel.open(amqp, f"consuming {self._queue}", self._timeout_s)
        session = Session(channel, self._buffer)
        session.start(self._changed.set)
        self._session = session
        await self._consume(session)
        return session

    async def _consume(self, session: Session) -> None:
        await session.consume(self._queue, self._wanted_prefetch, self._arguments())
        self.trouble = ""

    @property
    def _wanted_prefetch(self) -> int:
        return max(1, min(self._prefetch, PREFETCH_LIMIT))

    async def _serve(self, session: Session) -> None:
        """Keep a session until the subscription is stopped; raises TryAgain if the session ends before."""
        channel = session.channel
        channel.closed.add_done_callback(lambda _: self._changed.set())
        while not channel.closed.done():
            if session.cancelled:
                channel.close()
                raise NoQueue(f"{self._queue} was deleted")
            if self._stopping:
                await session.cancel_consumers()
                session.resume()
                session.stop()
                return
            if session.prefetch != self._wanted_prefetch:
                await self._consume(session)
            await self._changed.wait()
            self._changed.clear()
        # The subscription has worked before, so another try can succeed after any error.
        raise TryAgain(str(channel.closed.result()))
