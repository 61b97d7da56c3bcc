"""The port: what a broker promises to every part of Millrace, whatever stands behind it.

Everything is batch-first: publish takes a list, take returns a list, ack takes a list. Messages name their own channel,
so that one call can carry answers for many clients and the event beside them.

A message that was taken ends exactly one way: forwarded or acked, requeued, or buried.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from broker.channels import LOGS, NO_LIMITS, Channels, Limits
from broker.messages import MESSAGE_LIMIT_BYTES as MESSAGE_LIMIT_BYTES
from broker.messages import NO_HEADERS, NO_QUEUE, Delivery, Depth, Message, Outcome, Record
from broker.protocol.answers import clean
from broker.protocol.ids import now_us
from broker.support.upkeep import Upkeep

DELAY_LADDER_S = (0.2, 1.0, 5.0, 30.0)


@dataclass(frozen=True, slots=True)
class Since:
    """Start a log at the first record written at or after this time (brokers may start somewhat earlier)."""

    at_us: int


class Consumer(ABC):
    """One competing reader of a queue. It holds at most `prefetch` broker messages that are not settled."""

    queue: str

    @property
    def trouble(self) -> str:
        """Return why nothing can be taken now; empty while the consumer works."""
        return ""

    @abstractmethod
    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` messages, waiting for the first; none once it is stopped and drained."""

    @abstractmethod
    async def stop(self) -> None:
        """Ask the broker for no more. What is held already can still be taken and settled."""

    @abstractmethod
    def resize(self, prefetch: int) -> None:
        """Change how many unsettled broker messages may be held, from the next message on."""


class Reader(ABC):
    """One reader of a log, with an offset of its own."""

    @abstractmethod
    async def read(self, limit: int) -> list[Record]:
        """Return the next 1 to `limit` records in order, waiting for the first. Raises `Gap` when some are gone."""

    @abstractmethod
    async def close(self) -> None:
        """Let the log go."""


class Broker(ABC):
    """Channels of messages: queues settled once, logs read by many."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.upkeep = Upkeep(self.missing, self._make)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Reach the broker; raises `Unreachable` saying where it was looked for."""

    @abstractmethod
    async def close(self) -> None:
        """Flush what was published, give back what is held, and let go."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the broker has answered; raises `Unreachable`."""

    async def declare(self, channel: str, limits: Limits = NO_LIMITS) -> None:
        """Make sure that a channel exists, of the kind that its name says, for as long as this broker is open.

        Declaring twice changes nothing. Raises `Refused` when the broker does not allow it, also because something
        of another kind has the name. A channel with other limits is used as it is, where they cannot be changed.
        """
        await self._make(channel, limits)
        self.upkeep.note(channel, limits)

    async def exists(self, channel: str) -> bool:
        """Tell whether a channel is there, and make nothing."""
        return not await self.missing([channel])

    async def delete(self, channel: str) -> None:
        """Remove a channel and what is in it; a channel that is not there is fine."""
        self.upkeep.forget(channel)
        await self._remove(channel)

    @abstractmethod
    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Return those of these channels that are not there."""

    async def difference(self, queue: str, limits: Limits) -> str:
        """Return how a channel that is there differs from what it should be, where the broker cannot change that."""
        del queue, limits
        return ""

    async def migrate(self, queue: str, limits: Limits, moved: Callable[[int], None]) -> int:
        """Make a queue again as it should be, with its messages; `moved` is told of each batch of them.

        Nothing should publish to it meanwhile. Returns how many messages were lost to somebody who did.
        """
        del queue, limits, moved
        return 0

    @abstractmethod
    async def _make(self, channel: str, limits: Limits) -> None:
        """Make a channel where it is not there."""

    @abstractmethod
    async def _remove(self, channel: str) -> None:
        """Remove a channel where it is there."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Return what became of each message, in order, once the broker has said so.

        `SAFE`: the broker has it. Refused: it has not, and says why (full, too large, no such queue).
        `UNKNOWN`: the connection was lost in between; publish it again with the same uid.
        A message for a log is appended to it. Raises `Unreachable` only when nothing was sent.
        """

    @abstractmethod
    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Start to take from a queue. A lost connection is found and mended behind the consumer's back."""

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle deliveries for good. One whose connection is gone is left alone: it comes back."""

    @abstractmethod
    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give deliveries back to be taken again, by anybody, as messages that came back."""

    @abstractmethod
    def read(self, log: str, start: int | Since) -> Reader:
        """Start to read a log at an offset or a time."""

    @abstractmethod
    async def end(self, log: str) -> int:
        """Return the offset that the next record will have."""

    @abstractmethod
    async def depth(self, queue: str) -> Depth:
        """Return what is ready in a queue; (0, 0) for one that is not there."""

    @property
    def blocked(self) -> bool:
        """Tell whether the broker has said that it takes nothing from anybody now: no fault of one queue."""
        return bool(self.stopped_by)

    @property
    def stopped_by(self) -> str:
        """Return why the broker takes no messages from anybody now, such as a full disk; empty while it does."""
        return ""

    def troubles(self) -> list[str]:
        """Return what is wrong with the broker or with channels that this process declared, in words."""
        stopped = [self.stopped_by] if self.stopped_by else []
        return stopped + [f"channel {channel}: {why}" for channel, why in sorted(self.upkeep.troubles.items())]

    def _observe(self, messages: Sequence[Message], outcomes: Sequence[Outcome]) -> None:
        """Look after channels that a publish did not find."""
        if NO_QUEUE in outcomes:
            lost = [message.queue for message, outcome in zip(messages, outcomes, strict=True) if outcome == NO_QUEUE]
            self.upkeep.suspect(lost)

    async def flush(self) -> None:  # noqa: B027 - most brokers settle at once
        """Return when what was acked so far stays acked, whatever dies."""

    def origin(self, delivery: Delivery) -> bytes | None:
        """Return what identifies a delivery through every redelivery, where the broker has such a thing."""
        del delivery
        return None

    async def append(self, log: str, bodies: Sequence[bytes], headers: dict[str, Any] | None = None) -> list[Outcome]:
        """Write records at the end of a log, in order."""
        shared = headers or NO_HEADERS
        return await self.publish([Message(queue=log, body=body, headers=shared) for body in bodies])

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        """Publish `messages`, then ack `deliveries` if all are safe. What was not acked comes back.

        Adapters with transactions do both at once.
        """
        outcomes = await self.publish(messages)
        if all(outcome.safe for outcome in outcomes):
            await self.ack(deliveries)
        return outcomes

    async def bury(self, delivery: Delivery, *, reason: str, attempts: int, error: str) -> list[Outcome]:
        """Move a message with its original bytes and headers to `dead.<queue>`."""
        message = delivery.message
        grave = self.channels.dead(message.queue)
        await self.declare(grave)
        return await self.forward([delivery], [epitaph(message, grave, reason, attempts, error)])

    def is_log(self, channel: str) -> bool:
        """Tell whether a channel is a log of ours."""
        return self.channels.is_ours(channel) and self.channels.kind(channel) in LOGS


def epitaph(message: Message, grave: str, reason: str, attempts: int, error: str) -> Message:
    """Return the message as it is buried: its own bytes, and why it lies there."""
    why = {
        "millrace-dead-queue": message.queue,
        "millrace-dead-reason": reason,
        "millrace-dead-attempts": attempts,
        "millrace-dead-error": clean(error[:1000]),
        "millrace-dead-at-us": now_us(),
    }
    return replace(message, queue=grave, headers={**message.headers, **why}, delay_s=0.0)


def ladder_step_s(delay_s: float) -> float:
    """Return the rung of the delay ladder for a wished delay: the first that is not shorter, or the longest."""
    return next((step for step in DELAY_LADDER_S if step >= delay_s), DELAY_LADDER_S[-1])
