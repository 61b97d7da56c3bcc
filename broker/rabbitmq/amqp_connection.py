"""One pika connection on the running loop. It handles the frames of the hot path itself, without pika."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import InvalidFrameError
from pika.frame import decode_frame

from broker.rabbitmq.address import CONNECT_TIMEOUT_S, RabbitAddress
from broker.rabbitmq.frames import END, FRAME, OVERHEAD, Contents
from broker.rabbitmq.services import Services

_RECEIVE_BYTES = 256 * 1024  # pika reads 4 KiB at a time: a system call for every dozen messages


class AmqpConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """An open connection. It never reopens: a lost one is replaced by a new object."""

    def __init__(self, address: RabbitAddress, purpose: str) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.blocked = ""  # why the broker accepts no publishes now; empty if it accepts them
        self.closed: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[BaseException | None] = loop.create_future()
        self._receivers: dict[int, Contents] = {}
        self._frame_buffer = b""
        super().__init__(
            address.parameters(purpose),
            self._on_open,
            self._on_open_error,
            self._on_close,
            custom_ioloop=Services(loop),
        )
        self.add_on_connection_blocked_callback(self._on_blocked)
        self.add_on_connection_unblocked_callback(self._on_unblocked)

    @classmethod
    async def open(cls, address: RabbitAddress, purpose: str) -> Self:
        """Connect; raises Unreachable, or Misconfigured if the broker refuses the user."""
        amqp = cls(address, purpose)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + 1):
                reason = await amqp._ready
        except TimeoutError:
            raise address.unreachable() from None
        finally:
            if not amqp.is_open:
                amqp.abandon()
        if reason is not None:
            raise address.error(reason, "connecting") from reason
        return amqp

    def take_frames(self, channel: int, receiver: Contents | None) -> None:
        """Pass the frames of a channel to `receiver` first, and to pika only if it returns False; None undoes that."""
        if receiver is None:
            self._receivers.pop(channel, None)
        else:
            self._receivers[channel] = receiver

    def send(self, data: bytes) -> None:
        """Write complete frames."""
        if self.is_open:
            # pika slices off the unsent rest after each write: a slice of a view copies nothing.
            self._output_marshaled_frames([memoryview(data)])

    @property
    def frame_max(self) -> int:
        """The largest frame size in bytes that both sides agreed on."""
        return int(self.params.frame_max)

    async def shut(self, timeout_s: float) -> None:
        """Close cleanly, or abruptly after `timeout_s`."""
        if self.is_open:
            self.close()
        await asyncio.wait([self.closed], timeout=timeout_s)
        self.abandon()

    def abandon(self) -> None:
        """Abort the connection without waiting."""
        if not (self.is_closed or self.is_closing):
            self.close()
        if self._transport is not None:
            self._transport.abort()

    def _on_open(self, _: Any) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _on_open_error(self, _: Any, reason: BaseException) -> None:
        if not self._ready.done():
            self._ready.set_result(reason)

    def _on_close(self, _: Any, __: BaseException) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason or "an alarm")
        for receiver in list(self._receivers.values()):
            receiver.on_blocked()

    def _on_unblocked(self, *_: Any) -> None:
        self.blocked = ""

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _RECEIVE_BYTES  # noqa: SLF001 - pika has no setting for it
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        """Cut the stream into frames. Replaces pika's method, which decodes every frame into objects."""
        if self.connection_state < self.CONNECTION_OPEN:
            super()._on_data_available(data_in)
            return
        self.bytes_received += len(data_in)  # pika's heartbeat check reads it
        buffer = self._frame_buffer + data_in if self._frame_buffer else data_in
        at, size = 0, len(buffer)
        while size - at >= OVERHEAD:
            kind, channel, length = FRAME.unpack_from(buffer, at)
            end = at + OVERHEAD + length
            if end > size:
                break
            if buffer[end - 1] != END:
                raise InvalidFrameError("the server sent a frame that does not end with the byte 0xCE")
            self._on_frame(kind, channel, buffer, at, end)
            at = end
        self._frame_buffer = buffer[at:] if self._transport is not None else b""

    def _on_frame(self, kind: int, channel: int, buffer: bytes, at: int, end: int) -> None:
        receiver = self._receivers.get(channel)
        if receiver is None or not receiver.on_frame(kind, buffer[at + FRAME.size : end - 1]):
            self._process_frame(decode_frame(buffer[at:end])[1])
