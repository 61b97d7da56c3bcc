"""One channel that consumes a queue or stream: its consumers, its deliveries, and their settlement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from broker.rabbitmq.channel import Channel
from broker.rabbitmq.frames import DELIVER, Contents, ack_frame, read_deliver, requeue_frame

QUIET_S = 0.05


class Arrival(NamedTuple):
    """A delivery as the broker sent it."""

    session: Session
    tag: int
    came_back: bool
    properties: bytes
    body: bytes


class ArrivalBuffer:
    """Deliveries that have arrived and were not taken yet."""

    def __init__(self) -> None:
        self.arrivals: deque[Arrival] = deque()
        self.filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self.arrivals)

    async def wait(self) -> None:
        """Wait until something arrives or `filled` is set."""
        self.filled.clear()
        await self.filled.wait()

    def pop(self, limit: int) -> list[Arrival]:
        """Remove and return the oldest arrivals, at most `limit`."""
        arrivals = self.arrivals
        return [arrivals.popleft() for _ in range(min(limit, len(arrivals)))]


class Session(Contents):
    """The deliveries of one channel. After the channel is lost, the unsettled ones are delivered again."""

    CONTENT = DELIVER

    def __init__(self, channel: Channel, buffer: ArrivalBuffer) -> None:
        super().__init__()
        self.channel = channel
        self.cancelled = False  # the broker ended a consumer: its queue was deleted
        self.prefetch = 0  # of all consumers together
        self._arrivals = buffer.arrivals
        self._filled = buffer.filled
        self._received = 0
        self._outstanding: dict[int, None] = {}  # tags that are not settled, in order
        self._consumer_tags: list[str] = []
        self._stopped = False
        self._held_acks: list[int] | None = None  # acks that wait until a consumer is cancelled

    def start(self, on_cancelled: Callable[[], None]) -> None:
        """Receive the deliveries of the channel; `on_cancelled` is called after the broker ended a consumer."""

        def cancelled() -> None:
            self.cancelled = True
            on_cancelled()

        self.channel.take_frames(self)
        self.channel.on_cancel(cancelled)

    async def consume(self, queue: str, prefetch: int, arguments: Mapping[str, Any]) -> None:
        """Change the prefetch to `prefetch`.

        For a larger one, a further consumer is added to the present ones. For a smaller one, a new consumer replaces
        them after nothing more is on its way to them: callers should ask for less only when it matters.
        """
        if prefetch < self.prefetch:
            await self.cancel_consumers()
        # Per consumer, not per channel: quorum queues refuse a global prefetch.
        await self.channel.call("basic_qos", prefetch_count=prefetch - self.prefetch)
        answer = await self.channel.call(
            "basic_consume", queue=queue, on_message_callback=_unused, arguments=dict(arguments)
        )
        self._consumer_tags.append(answer.method.consumer_tag)
        self.prefetch = prefetch
        self.resume()

    async def cancel_consumers(self) -> None:
        """End all consumers without losing a delivery; acks are held until `resume`."""
        await self._wait_until_quiet()
        for tag in self._consumer_tags:
            await self.channel.call("basic_cancel", consumer_tag=tag)
        self._consumer_tags, self.prefetch = [], 0

    def on_content(self, method: bytes, properties: bytes, body: bytes) -> None:
        tag, came_back = read_deliver(method)
        self._outstanding[tag] = None
        self._received += 1
        self._arrivals.append(Arrival(self, tag, came_back, properties, body))
        self._filled.set()

    def ack(self, tags: Iterable[int]) -> None:
        """Ack in a single write: the oldest deliveries with one frame, the others one by one."""
        if self._held_acks is not None:
            self._held_acks.extend(tags)
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
        """Give deliveries back to the queue."""
        settled = self._settle(tags)
        if settled:
            self.channel.send(b"".join(requeue_frame(self.channel.number, tag) for tag in settled))
            self._close_when_done()

    def stop(self) -> None:
        """Close the channel once all deliveries are settled; no more will arrive."""
        self._stopped = True
        self._close_when_done()

    def resume(self) -> None:
        """Send the acks that were held."""
        held, self._held_acks = self._held_acks or [], None
        self.ack(held)

    async def _wait_until_quiet(self) -> None:
        """Wait until no delivery is on its way: a cancelled consumer's deliveries count as having come back.

        An ack makes room for another delivery, so acks are held until `resume`.
        """
        self._held_acks = []
        seen = -1
        while seen != self._received:
            seen = self._received
            await asyncio.sleep(QUIET_S)

    def _settle(self, tags: Iterable[int]) -> list[int]:
        """Return the tags that were outstanding: the broker closes the channel if one is settled twice."""
        outstanding = self._outstanding
        return [tag for tag in tags if outstanding.pop(tag, tag) is None]

    def _close_when_done(self) -> None:
        if self._stopped and not self._outstanding:
            self.channel.close()


def _unused(*_: object) -> None:
    """The callback that pika requires; the session receives the deliveries as frames."""
