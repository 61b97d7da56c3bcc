"""One AMQP channel with awaitable calls and Millrace's errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pika

from broker.errors import MillraceError, Unreachable
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.frames import Contents


class Channel:
    """An open channel. `closed` resolves with the error once it is closed; every later call raises that error."""

    def __init__(self, amqp: AmqpConnection, purpose: str, timeout_s: float) -> None:
        self.amqp = amqp
        self.number = 0
        self.closed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self._purpose = purpose
        self._timeout_s = timeout_s
        self._channel: Any = None

    @classmethod
    async def open(cls, amqp: AmqpConnection, purpose: str, timeout_s: float) -> Self:
        """Open a channel; `purpose` begins its error texts."""
        channel = cls(amqp, purpose, timeout_s)
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            channel._channel = amqp.channel(on_open_callback=lambda _: _resolve(opened))
        except pika.exceptions.AMQPError as exc:
            raise amqp.address.unreachable() from exc
        channel.number = channel._channel.channel_number
        channel._channel.add_on_close_callback(channel._on_close)
        await channel._answer(opened)
        return channel

    async def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of pika's channel and return the answer; raises the error of `closed`, or Unreachable."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.start(method, callback=lambda frame: _resolve(answered, frame), **arguments)
        return await self._answer(answered)

    def start(self, method: str, **arguments: Any) -> None:
        """Call a method of pika's channel without waiting for the answer."""
        if self.closed.done():
            raise self.closed.result()
        try:
            getattr(self._channel, method)(**arguments)
        except pika.exceptions.AMQPError as exc:
            raise self.amqp.address.unreachable() from exc

    def take_frames(self, receiver: Contents) -> None:
        """Hand the contents that arrive on this channel to `receiver`."""
        self.amqp.take_frames(self.number, receiver)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the broker ends a consumer of this channel."""
        self._channel.add_on_cancel_callback(lambda _: callback())

    def send(self, data: bytes) -> None:
        """Write complete frames, unless the channel is closed."""
        if not self.closed.done():
            self.amqp.send(data)

    def close(self) -> None:
        """Start to close; unsettled deliveries go back to their queue."""
        if self._channel.is_open and self.amqp.is_open:
            self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _answer(self, answered: asyncio.Future[Any]) -> Any:
        await asyncio.wait((answered, self.closed), timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        answered.cancel()
        if self.closed.done():
            raise self.closed.result()
        self.close()
        raise Unreachable(f"{self._purpose}: {self.amqp.address.shown} has not answered for {self._timeout_s:g} s")

    def _on_close(self, _: Any, reason: BaseException) -> None:
        self.amqp.take_frames(self.number, None)
        if not self.closed.done():
            self.closed.set_result(self.amqp.address.error(reason, self._purpose))


def _resolve(future: asyncio.Future[Any], result: Any = None) -> None:
    if not future.done():
        future.set_result(result)
