"""A connection that opens when it is first needed, and again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from broker.errors import MillraceError, Misconfigured, Unreachable
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.amqp_connection import AmqpConnection

LOG = logging.getLogger(__name__)
PIKA_LOG = logging.getLogger("pika")


class Backoff:
    """Waits that double, with jitter, so that a thousand processes do not come back at once."""

    def __init__(self, first_s: float = 0.05, longest_s: float = 5.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._tries = 0
        self._random = random.Random()  # noqa: S311 - jitter is no secret

    def reset(self) -> None:
        """Start again from the shortest wait."""
        self._tries = 0

    def next_s(self) -> float:
        """Return the next wait: half of it is certain, half is drawn."""
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return wait_s * (0.5 + 0.5 * self._random.random())


class RabbitConnection:
    """The one place that opens a wire. Attempts are shared, and spaced by a backoff however many ask."""

    def __init__(self, address: RabbitAddress, purpose: str) -> None:
        self.address = address
        self._purpose = purpose
        self._wire: AmqpConnection | None = None
        self._opening = asyncio.Lock()
        self._backoff = Backoff()
        self._not_before = 0.0
        self._was_open = False
        self._closed = False
        # pika logs every channel that a missing queue closes, and every lost connection with a traceback: all of it
        # is expected here, mended, and told by us. Whoever wants it sets a level of their own.
        if PIKA_LOG.level == logging.NOTSET:
            PIKA_LOG.setLevel(logging.CRITICAL)

    async def wire(self) -> AmqpConnection:
        """Return the open wire, opening it if needed; raises Unreachable, at once while a failed attempt is recent."""
        if self._wire is not None and self._wire.is_open:
            return self._wire
        async with self._opening:
            if self._wire is None or not self._wire.is_open:
                self._wire = await self._open()
            return self._wire

    @property
    def blocked(self) -> str:
        """Return why the broker takes no publishes now, in its own words; empty while it does."""
        return self._wire.blocked if self._wire is not None and self._wire.is_open else ""

    async def close(self, timeout_s: float) -> None:
        """Let go for good."""
        self._closed = True
        async with self._opening:
            if self._wire is not None:
                await self._wire.shut(timeout_s)
                self._wire = None

    async def _open(self) -> AmqpConnection:
        if self._closed:
            raise Unreachable(f"the connection to {self.address.shown} was closed by this process")
        if time.monotonic() < self._not_before:
            raise self.address.unreachable()
        try:
            wire = await AmqpConnection.open(self.address, self._purpose)
        except MillraceError as exc:
            self._not_before = time.monotonic() + self._backoff.next_s()
            raise self._as_outage(exc) from exc
        self._note_open()
        return wire

    def _as_outage(self, error: MillraceError) -> MillraceError:
        # A broker that starts refuses users and virtual hosts for a moment: what worked once is not a wrong setting.
        return self.address.unreachable() if self._was_open and isinstance(error, Misconfigured) else error

    def _note_open(self) -> None:
        if self._was_open:
            LOG.warning("reconnected to %s to %s", self.address.shown, self._purpose)
        self._was_open = True
        self._backoff.reset()
