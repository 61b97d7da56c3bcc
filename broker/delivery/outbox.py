"""The bundling publisher of gateway, router and processors.

Requests or answers that are added for the same queue within one turn of the event loop are sent as one bundle at the
end of that turn, while fewer than `window` bundles are unconfirmed. Otherwise they wait for the next confirm. So there
is no timer, no added latency at low load, and bundles are full at high load. Plain messages for clients' queues are
sent in the same way, with a wider window.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from broker.delivery.attempts import BundlePublisher, PublishAttempts, Sending
from broker.messages import Message, Outcome
from broker.protocol.bundle import BUNDLE_LIMIT_BYTES, bundle
from broker.protocol.header import BodyForm
from broker.support.tasks import Tasks

T = TypeVar("T")

WINDOW_BUNDLES = 8
WINDOW_PARTIAL = 2
WINDOW_PLAIN = 1000


@dataclass(slots=True)
class _Filling(Generic[T]):
    """The bundle for one queue that is not full yet."""

    queue: str
    form: BodyForm
    shared: bytes
    limit: int
    parts: list[bytes | memoryview] = field(default_factory=list)
    tokens: list[T] = field(default_factory=list)
    size: int = 0


class Outbox(Generic[T]):
    """Publishes messages in the background.

    Calls `on_settled(tokens, outcome)` once per message with its final outcome. A message whose outcome is unknown is
    published again for `patience_s`; one that was refused because its queue is full, for `patience_full_s`, while other
    messages continue. While the broker as a whole refuses messages, that time does not run out, because these messages
    were accepted already and would be lost.
    """

    def __init__(
        self,
        broker: BundlePublisher,
        on_settled: Callable[[Sequence[T], Outcome], None],
        *,
        patience_s: float = 30.0,
        patience_full_s: float = 0.0,
        window: int = WINDOW_BUNDLES,
    ) -> None:
        self._attempts = PublishAttempts(broker, on_settled, patience_s=patience_s, patience_full_s=patience_full_s)
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._filling: dict[tuple[str, bytes], _Filling[T]] = {}
        self._full: deque[_Filling[T]] = deque()
        self._plain: deque[tuple[Message, T]] = deque()
        self._bundles_out = 0
        self._plain_out = 0
        self._scheduled = False

    def put(
        self,
        queue: str,
        form: BodyForm,
        shared: bytes,
        ticket: bytes,
        body: bytes | memoryview,
        token: T,
        *,
        limit: int,
    ) -> None:
        """Add one request or answer to the bundle for `queue`, which has at most `limit` of them."""
        self.put_all(queue, form, shared, [(ticket, body, token)], limit=limit)

    def put_all(
        self,
        queue: str,
        form: BodyForm,
        shared: bytes,
        items: Sequence[tuple[bytes, bytes | memoryview, T]],
        *,
        limit: int,
    ) -> None:
        """Add many requests or answers, as (ticket, body, token), to the bundles for `queue`."""
        for ticket, body, token in items:
            size = len(ticket) + len(body)
            filling = self._filling.get((queue, shared)) or self._begin(queue, form, shared, limit)
            if filling.tokens and filling.size + size > BUNDLE_LIMIT_BYTES:
                filling = self._full_now(filling)
            filling.parts.append(ticket)
            filling.parts.append(body)
            filling.tokens.append(token)
            filling.size += size
            if len(filling.tokens) >= filling.limit:
                self._full.append(self._filling.pop((queue, shared)))
        self._schedule()

    def put_message(self, message: Message, token: T) -> None:
        """Add a message that is not bundled."""
        self._plain.append((message, token))
        self._schedule()

    @property
    def unsent(self) -> int:
        """The number of bundles and plain messages that wait or are unconfirmed."""
        return self._bundles_out + self._plain_out + len(self._plain) + len(self._filling) + len(self._full)

    async def drain(self) -> None:
        """Wait until everything is settled."""
        await self._tasks.drain()  # messages that are tried again are in no window
        while self.unsent:
            self._flush()
            await self._tasks.drain()

    def _begin(self, queue: str, form: BodyForm, shared: bytes, limit: int) -> _Filling[T]:
        filling: _Filling[T] = _Filling(queue, form, shared, limit)
        self._filling[queue, shared] = filling
        return filling

    def _full_now(self, filling: _Filling[T]) -> _Filling[T]:
        self._full.append(filling)
        return self._begin(filling.queue, filling.form, filling.shared, filling.limit)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch: list[Sending[T]] = []
        bundles = 0
        while filling := self._next(self._bundles_out + bundles):
            message = bundle(filling.queue, filling.form, filling.shared, filling.parts, len(filling.tokens))
            batch.append(Sending(message, filling.tokens))
            bundles += 1
        plain = min(len(self._plain), WINDOW_PLAIN - self._plain_out)
        for _ in range(plain):
            message, token = self._plain.popleft()
            batch.append(Sending(message, [token]))
        if batch:
            self._bundles_out += bundles
            self._plain_out += plain
            self._tasks.spawn(self._send(batch, bundles, plain), "outbox")

    def _next(self, out: int) -> _Filling[T] | None:
        """Return a bundle that may be sent while `out` are unconfirmed: first a full one, then one still filling."""
        if self._full and out < self._window:
            return self._full.popleft()
        if self._filling and out < min(self._window, WINDOW_PARTIAL):
            return self._filling.pop(next(iter(self._filling)))
        return None

    async def _send(self, batch: list[Sending[T]], bundles: int, plain: int) -> None:
        """Publish a batch; messages to try again move to a task of their own, and leave the window."""
        again = await self._attempts.publish(batch, last=False)
        self._bundles_out -= bundles
        self._plain_out -= plain
        if self._filling or self._full or self._plain:
            self._flush()
        if again:
            await self._attempts.repeat(again)
