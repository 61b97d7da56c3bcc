"""A channel in confirm mode: the messages in flight, and the broker's confirms."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from broker.errors import Unreachable
from broker.messages import FULL, NO_QUEUE, SAFE, STOPPED, TOO_LARGE, UNKNOWN, Outcome
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.frames import (
    ACK,
    NACK,
    RETURN,
    Contents,
    content_frames,
    publish_frame,
    read_confirm,
    read_return,
)

WINDOW = 1000  # unconfirmed messages: a smaller window lowers the rate, a larger one only needs memory
WINDOW_BYTES = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class ConfirmBatch:
    """The messages of one publish call as frames (None for a message that is too large), and their outcomes."""

    frames: list[bytes | None]
    done: asyncio.Future[None]
    outcomes: list[Outcome] = field(init=False)
    sent: int = 0  # the number of frames that were written or refused
    left: int = field(init=False)
    wrote: bool = False

    def __post_init__(self) -> None:
        self.outcomes = [UNKNOWN] * len(self.frames)
        self.left = len(self.frames)

    def settle(self, index: int, outcome: Outcome) -> None:
        """Set an outcome; the last one resolves `done`."""
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def refuse_rest(self, outcome: Outcome) -> None:
        """Settle all messages that were never written."""
        first, self.sent = self.sent, len(self.frames)
        for index in range(first, len(self.frames)):
            self.settle(index, outcome)


class ConfirmChannel(Contents):
    """Sends batches within the window and settles them as confirms arrive. No method awaits for each message."""

    CONTENT = RETURN

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self._waiting: deque[ConfirmBatch] = deque()
        self._pending: dict[int, tuple[ConfirmBatch, int]] = {}  # by sequence number, in order
        self._pending_bytes = 0
        self._last = 0
        self._confirmed = 0  # all tags up to this one are settled

    async def start(self) -> None:
        """Switch the channel to confirm mode."""
        self.channel.take_frames(self)
        await self.channel.call("confirm_delivery", ack_nack_callback=lambda _: None)
        self.channel.closed.add_done_callback(self._on_lost)

    async def publish(self, frames: list[bytes | None], timeout_s: float) -> list[Outcome]:
        """Send; return the outcomes once all are known. After `timeout_s` the missing ones are `UNKNOWN` or `FULL`.

        Raises Unreachable if the channel was closed before anything was written.
        """
        if self.channel.amqp.blocked:
            await asyncio.sleep(0)  # let the loop read the end of the alarm, even if the caller tries again at once
            return [STOPPED if frame else TOO_LARGE for frame in frames]
        batch = ConfirmBatch(frames, asyncio.get_running_loop().create_future())
        self._waiting.append(batch)
        self._send()
        if self.channel.closed.done():
            self._on_lost()
        try:
            if batch.left:
                await asyncio.wait((batch.done,), timeout=timeout_s)
        finally:
            self._give_up(batch)
        if not batch.wrote and self.channel.closed.done():
            raise Unreachable(str(self.channel.closed.result()))
        return list(batch.outcomes)

    async def flush(self, timeout_s: float) -> None:
        """Wait until all batches are settled, at most `timeout_s` seconds."""
        waits = {batch.done for batch, _ in self._pending.values()} | {batch.done for batch in self._waiting}
        if waits:
            await asyncio.wait(waits, timeout=timeout_s)

    def on_method(self, payload: bytes) -> bool:
        if payload.startswith(ACK):
            outcome = SAFE
        elif payload.startswith(NACK):
            outcome = FULL
        else:
            return False
        tag, multiple = read_confirm(payload)
        if multiple:
            for each in range(self._confirmed + 1, tag + 1):
                self._settle(each, outcome)
            self._confirmed = tag
        else:
            self._settle(tag, outcome)
        if self._waiting:
            self._send()
        return True

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        """Settle a returned message: no queue has its name. The confirm that follows finds it settled."""
        tag = self._returned(read_return(method), properties, body)
        if tag is not None:
            self._settle(tag, NO_QUEUE)

    def on_blocked(self) -> None:
        """Refuse all messages that were not written: the broker would not read them."""
        while self._waiting:
            self._waiting.popleft().refuse_rest(STOPPED)

    def _send(self) -> None:
        out: list[bytes] = []
        while self._waiting and self._has_room():
            batch = self._waiting[0]
            self._write(batch, out)
            if batch.sent == len(batch.frames):
                self._waiting.popleft()
        if out:
            self.channel.send(out[0] if len(out) == 1 else b"".join(out))

    def _write(self, batch: ConfirmBatch, out: list[bytes]) -> None:
        frames = batch.frames
        while batch.sent < len(frames) and self._has_room():
            index = batch.sent
            batch.sent += 1
            frame = frames[index]
            if frame is None:
                batch.settle(index, TOO_LARGE)
                continue
            batch.wrote = True
            self._last += 1
            self._pending[self._last] = (batch, index)
            self._pending_bytes += len(frame)
            out.append(frame)

    def _has_room(self) -> bool:
        return len(self._pending) < WINDOW and self._pending_bytes < WINDOW_BYTES

    def _settle(self, tag: int, outcome: Outcome) -> None:
        entry = self._pending.pop(tag, None)
        if entry is not None:
            batch, index = entry
            self._pending_bytes -= len(batch.frames[index] or b"")
            batch.frames[index] = None
            batch.settle(index, outcome)

    def _returned(self, queue: str, properties: bytes, body: bytes) -> int | None:
        """Return the delivery tag of a returned message, None if it is unknown.

        The name of its queue does not identify it: an earlier message may have gone to the same queue.
        """
        start = publish_frame(self.channel.number, queue, mandatory=True)
        whole = start + content_frames(self.channel.number, properties, body, self.channel.amqp.frame_max)
        first = None
        for tag, (batch, index) in self._pending.items():
            frame = batch.frames[index] or b""
            if frame == whole:
                return tag
            if first is None and frame.startswith(start):
                first = tag
        return first

    def _give_up(self, batch: ConfirmBatch) -> None:
        if batch.sent < len(batch.frames):
            # There was no room within the timeout: the broker accepts no more at present.
            self._waiting.remove(batch)
            batch.refuse_rest(FULL)

    def _on_lost(self, _: object = None) -> None:
        waiting, self._waiting = self._waiting, deque()
        pending, self._pending = self._pending, {}
        self._pending_bytes = 0
        for batch in waiting:
            batch.refuse_rest(UNKNOWN)
        for batch, index in pending.values():
            batch.settle(index, UNKNOWN)
