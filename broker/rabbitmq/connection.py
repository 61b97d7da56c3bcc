"""A connection that opens on first use, and opens again after a loss."""

from __future__ import annotations

import asyncio
import logging
import time

from broker.errors import MillraceError, Misconfigured, Unreachable
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.support.backoff import Backoff

logger = logging.getLogger(__name__)
pika_logger = logging.getLogger("pika")


def reconnect_backoff() -> Backoff:
    """Return a backoff with jitter, so that a thousand processes do not reconnect at once."""
    return Backoff(first_s=0.05, longest_s=5.0, jitter=0.5)


class RabbitConnection:
    """Opens AMQP connections, one at a time. All callers share an attempt and its backoff."""

    def __init__(self, address: RabbitAddress, purpose: str) -> None:
        self.address = address
        self._purpose = purpose
        self._amqp: AmqpConnection | None = None
        self._opening = asyncio.Lock()
        self._backoff = reconnect_backoff()
        self._not_before = 0.0
        self._was_open = False
        self._closed = False
        # pika logs a traceback for every lost connection and every channel that a missing queue closes. Both are
        # expected here, and this adapter logs and repairs them. An operator can set another level.
        if pika_logger.level == logging.NOTSET:
            pika_logger.setLevel(logging.CRITICAL)

    async def amqp(self) -> AmqpConnection:
        """Return the open connection, opening it if needed; raises Unreachable.

        During the backoff after a failed attempt, it raises at once.
        """
        if self._amqp is not None and self._amqp.is_open:
            return self._amqp
        async with self._opening:
            if self._amqp is None or not self._amqp.is_open:
                self._amqp = await self._open()
            return self._amqp

    @property
    def blocked(self) -> str:
        """The broker's reason for accepting no publishes now; empty while it accepts them."""
        return self._amqp.blocked if self._amqp is not None and self._amqp.is_open else ""

    async def close(self, timeout_s: float) -> None:
        """Close the connection; it cannot be opened again."""
        self._closed = True
        async with self._opening:
            if self._amqp is not None:
                await self._amqp.shut(timeout_s)
                self._amqp = None

    async def _open(self) -> AmqpConnection:
        if self._closed:
            raise Unreachable(f"the connection to {self.address.shown} was closed by this process")
        if time.monotonic() < self._not_before:
            raise self.address.unreachable()
        try:
            amqp = await AmqpConnection.open(self.address, self._purpose)
        except MillraceError as exc:
            self._not_before = time.monotonic() + self._backoff.next_s()
            raise self._as_outage(exc) from exc
        self._note_open()
        return amqp

    def _as_outage(self, error: MillraceError) -> MillraceError:
        # A starting broker refuses users and virtual hosts for a moment: settings that worked once are not wrong.
        return self.address.unreachable() if self._was_open and isinstance(error, Misconfigured) else error

    def _note_open(self) -> None:
        if self._was_open:
            logger.warning("reconnected to %s to %s", self.address.shown, self._purpose)
        self._was_open = True
        self._backoff.reset()
