"""The bundling publisher of gateway, router and processors.

What is put in one turn of the event loop for the same queue leaves as one bundle at the end of that turn while fewer
than `window` bundles are unconfirmed, else at the next confirm: no timer, no added latency at low load, full bundles
at high load. Plain messages for queues of clients leave the same way, in a wider window.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from broker.errors import Unreachable
from broker.messages import UNKNOWN, Message, Outcome, Settlement
from broker.protocol.bundle import BUNDLE_LIMIT_BYTES, bundle
from broker.protocol.header import BodyForm
from broker.support.tasks import Tasks

T = TypeVar("T")

WINDOW_BUNDLES = 8
WINDOW_PARTIAL = 2
WINDOW_PLAIN = 1000
PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0


class BundlePublisher(Protocol):
    """What an outbox needs of a broker."""

    @property
    def blocked(self) -> bool:
        """See the port."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """See the port."""


@dataclass(slots=True)
class _Sending(Generic[T]):
    """A message on its way. After one unknown outcome the broker may have it: no later refusal takes that back."""

    message: Message
    tokens: list[T]
    unsure: bool = False


@dataclass(slots=True)
class _Filling(Generic[T]):
    """The bundle that is being filled for one queue."""

    queue: str
    form: BodyForm
    shared: bytes
    limit: int
    parts: list[bytes | memoryview] = field(default_factory=list)
    tokens: list[T] = field(default_factory=list)
    size: int = 0


class Outbox(Generic[T]):
    """Publishes messages in the background; `settled(tokens, outcome)` hears what became of each one's tokens.

    An unknown outcome is published again for `patience_s`; so is a refusal because of a full queue, for
    `patience_full_s`: a queue that stays full holds up nobody else. While the broker as a whole takes nothing, no
    patience runs out: what would be given up then was accepted, and would be lost.
    """

    def __init__(
        self,
        broker: BundlePublisher,
        settled: Callable[[Sequence[T], Outcome], None],
        *,
        patience_s: float = 30.0,
        patience_full_s: float = 0.0,
        window: int = WINDOW_BUNDLES,
    ) -> None:
        self._broker = broker
        self._settled = settled
        self._patience_s = patience_s
        self._patience_full_s = patience_full_s
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
        """Add one request or answer to the bundle for `queue`, at most `limit` in one."""
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
        """Add (ticket, body, token) of many requests or answers to the bundles for `queue`."""
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
        """Add a message that stays by itself."""
        self._plain.append((message, token))
        self._schedule()

    @property
    def unsent(self) -> int:
        """How many bundles and plain messages wait or are unconfirmed."""
        return self._bundles_out + self._plain_out + len(self._plain) + len(self._filling) + len(self._full)

    async def drain(self) -> None:
        """Wait until everything put is settled."""
        await self._tasks.drain()  # what is tried again waits in no window
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
        batch: list[_Sending[T]] = []
        bundles = 0
        while filling := self._next(self._bundles_out + bundles):
            message = bundle(filling.queue, filling.form, filling.shared, filling.parts, len(filling.tokens))
            batch.append(_Sending(message, filling.tokens))
            bundles += 1
        plain = min(len(self._plain), WINDOW_PLAIN - self._plain_out)
        for _ in range(plain):
            message, token = self._plain.popleft()
            batch.append(_Sending(message, [token]))
        if batch:
            self._bundles_out += bundles
            self._plain_out += plain
            self._tasks.spawn(self._send(batch, bundles, plain), "outbox")

    def _next(self, out: int) -> _Filling[T] | None:
        """Return a bundle that may leave while `out` are unconfirmed: a full one sooner than one that could fill."""
        if self._full and out < self._window:
            return self._full.popleft()
        if self._filling and out < min(self._window, WINDOW_PARTIAL):
            return self._filling.pop(next(iter(self._filling)))
        return None

    async def _send(self, batch: list[_Sending[T]], bundles: int, plain: int) -> None:
        """Publish a batch; what has to be tried again goes on in a task of its own and frees the window."""
        again = await self._attempt(batch, last=False)
        self._bundles_out -= bundles
        self._plain_out -= plain
        if self._filling or self._full or self._plain:
            self._flush()
        if again:
            await self._insist(again)

    async def _insist(self, batch: list[_Sending[T]]) -> None:
        began, pause_s = time.monotonic(), PAUSE_FIRST_S
        longest_s = max(self._patience_s, self._patience_full_s)
        while batch:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_LONGEST_S)
            if self._broker.blocked:
                began = time.monotonic()
            batch = await self._attempt(batch, last=time.monotonic() - began > longest_s)

    async def _attempt(self, batch: list[_Sending[T]], *, last: bool) -> list[_Sending[T]]:
        try:
            outcomes: Sequence[Outcome] = await self._broker.publish([item.message for item in batch])
        except Unreachable:
            outcomes = [UNKNOWN] * len(batch)
        again = []
        for item, said in zip(batch, outcomes, strict=True):
            item.unsure |= said.verdict is Settlement.UNKNOWN
            outcome = UNKNOWN if item.unsure and not said.safe else said
            if not last and self._worth_another(outcome):
                again.append(item)
            else:
                self._settled(item.tokens, outcome)
        return again

    def _worth_another(self, outcome: Outcome) -> bool:
        if outcome.verdict is Settlement.UNKNOWN:
            return self._patience_s > 0
        return outcome.is_full and self._patience_full_s > 0
