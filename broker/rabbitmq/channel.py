"""One AMQP channel: calls that are awaited, and errors of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pika

from broker.errors import MillraceError, Unreachable
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.frames import Contents


class Channel:
    """An open channel. `closed` is resolved with the reason once it is not; then nothing works any more."""

    def __init__(self, wire: AmqpConnection, what: str, timeout_s: float) -> None:
        self.wire = wire
        self.number = 0
        self.closed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self._what = what
        self._timeout_s = timeout_s
        self._channel: Any = None

    @classmethod
    async def open(cls, wire: AmqpConnection, what: str, timeout_s: float) -> Self:
        """Open a channel; `what` begins its error messages."""
        channel = cls(wire, what, timeout_s)
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            channel._channel = wire.channel(on_open_callback=lambda _: _resolve(opened))
        except pika.exceptions.AMQPError as exc:
            raise wire.address.unreachable() from exc
        channel.number = channel._channel.channel_number
        channel._channel.add_on_close_callback(channel._on_close)
        await channel._answer(opened)
        return channel

    async def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of pika's channel and return the broker's answer."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.start(method, callback=lambda frame: _resolve(answered, frame), **arguments)
        return await self._answer(answered)

    def start(self, method: str, **arguments: Any) -> None:
        """Call a method of pika's channel without waiting."""
        if self.closed.done():
            raise self.closed.result()
        try:
            getattr(self._channel, method)(**arguments)
        except pika.exceptions.AMQPError as exc:
            raise self.wire.address.unreachable() from exc

    def take_frames(self, taker: Contents) -> None:
        """Hand the contents that arrive here to `taker`."""
        self.wire.take_frames(self.number, taker)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back when the broker ends a consumer of this channel."""
        self._channel.add_on_cancel_callback(lambda _: callback())

    def send(self, data: bytes) -> None:
        """Write whole frames, unless the channel is closed."""
        if not self.closed.done():
            self.wire.send(data)

    def close(self) -> None:
        """Start to close; what is unsettled here goes back to its queue."""
        if self._channel.is_open and self.wire.is_open:
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
        raise Unreachable(f"{self._what}: {self.wire.address.shown} has not answered for {self._timeout_s:g} s")

    def _on_close(self, _: Any, reason: BaseException) -> None:
        self.wire.take_frames(self.number, None)
        if not self.closed.done():
            self.closed.set_result(self.wire.address.error(reason, self._what))


def _resolve(future: asyncio.Future[Any], result: Any = None) -> None:
    if not future.done():
        future.set_result(result)
