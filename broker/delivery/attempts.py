"""Publishes messages until each has a final outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from broker.errors import Unreachable
from broker.messages import UNKNOWN, Message, Outcome, Settlement
from broker.support.backoff import Backoff

T = TypeVar("T")

PAUSE_FIRST_S = 0.05
PAUSE_LONGEST_S = 1.0


class BundlePublisher(Protocol):
    """The part of a broker that publishes."""

    @property
    def blocked(self) -> bool:
        """True if the broker as a whole refuses all messages now."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Publish messages and return one outcome per message; raises Unreachable."""


@dataclass(slots=True)
class Sending(Generic[T]):
    """A message in flight. After one unknown outcome the broker may have it, even if it refuses it later."""

    message: Message
    tokens: list[T]
    unsure: bool = False


class PublishAttempts(Generic[T]):
    """Calls `on_settled(tokens, outcome)` once per message with its final outcome."""

    def __init__(
        self,
        broker: BundlePublisher,
        on_settled: Callable[[Sequence[T], Outcome], None],
        *,
        patience_s: float,
        patience_full_s: float,
    ) -> None:
        """A message is repeated for `patience_s` after unknown outcomes, for `patience_full_s` if its queue is full."""
        self._broker = broker
        self._on_settled = on_settled
        self._patience_s = patience_s
        self._patience_full_s = patience_full_s

    async def publish(self, batch: list[Sending[T]], *, last: bool) -> list[Sending[T]]:
        """Publish a batch; return the messages to publish again, none if it is the `last` attempt."""
        try:
            outcomes: Sequence[Outcome] = await self._broker.publish([item.message for item in batch])
        except Unreachable:
            outcomes = [UNKNOWN] * len(batch)
        again = []
        for item, found in zip(batch, outcomes, strict=True):
            item.unsure |= found.settlement is Settlement.UNKNOWN
            outcome = UNKNOWN if item.unsure and not found.safe else found
            if not last and self._is_worth_repeating(outcome):
                again.append(item)
            else:
                self._on_settled(item.tokens, outcome)
        return again

    async def repeat(self, batch: list[Sending[T]]) -> None:
        """Publish a batch again until all its messages are settled."""
        began, backoff = time.monotonic(), Backoff(first_s=PAUSE_FIRST_S, longest_s=PAUSE_LONGEST_S)
        longest_s = max(self._patience_s, self._patience_full_s)
        while batch:
            await asyncio.sleep(backoff.next_s())
            if self._broker.blocked:
                began = time.monotonic()
            batch = await self.publish(batch, last=time.monotonic() - began > longest_s)

    def _is_worth_repeating(self, outcome: Outcome) -> bool:
        if outcome.settlement is Settlement.UNKNOWN:
            return self._patience_s > 0
        return outcome.is_full and self._patience_full_s > 0
