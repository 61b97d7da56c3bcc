"""The port: the promises that every broker keeps to all parts of Millrace.

All calls take batches: publish takes a list, take returns a list, ack takes a list. Each message names its own channel,
so that one call can publish answers for many clients and the event with their rows.

A message that was taken ends in exactly one way: forwarded or acked, requeued, or buried.
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
    """Start a log at the first record written at or after `at_us`; brokers may start slightly earlier."""

    at_us: int


class Consumer(ABC):
    """One competing consumer of a queue. It holds at most `prefetch` unsettled broker messages."""

    queue: str

    @property
    def trouble(self) -> str:
        """The reason why nothing can be taken now; empty while the consumer works."""
        return ""

    @abstractmethod
    async def take(self, limit: int) -> list[Delivery]:
        """Return 1 to `limit` messages, waiting for the first; none once it is stopped and drained."""

    @abstractmethod
    async def stop(self) -> None:
        """Request no more messages. Those that are held already can still be taken and settled."""

    @abstractmethod
    def resize(self, prefetch: int) -> None:
        """Change the number of unsettled broker messages that may be held, from the next message on."""


class Reader(ABC):
    """One reader of a log, with an offset of its own."""

    @abstractmethod
    async def read(self, limit: int) -> list[Record]:
        """Return the next 1 to `limit` records in order, waiting for the first.

        Raises `Gap` if records are gone; the next call continues after the gap.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop reading."""


class Broker(ABC):
    """Queues, whose messages are settled once, and logs, which many readers follow."""

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
        """Connect; raises `Unreachable` with the broker's address."""

    @abstractmethod
    async def close(self) -> None:
        """Flush published messages, give back held ones, and disconnect."""

    @abstractmethod
    async def ping(self) -> None:
        """Return once the broker has answered; raises `Unreachable`."""

    async def declare(self, channel: str, limits: Limits = NO_LIMITS) -> None:
        """Make a channel of the kind that its name implies if it does not exist, and keep it while this broker is open.

        Declaring twice changes nothing. Raises `Refused` if the broker does not allow it, or if another kind of channel
        has the name. A channel with other limits is used as it is where they cannot be changed.
        """
        await self._make(channel, limits)
        self.upkeep.note(channel, limits)

    async def exists(self, channel: str) -> bool:
        """Return True if a channel exists; makes nothing."""
        return not await self.missing([channel])

    async def delete(self, channel: str) -> None:
        """Delete a channel with its content; does nothing if it does not exist."""
        self.upkeep.forget(channel)
        await self._remove(channel)

    @abstractmethod
    async def missing(self, channels: Sequence[str]) -> list[str]:
        """Return those of these channels that do not exist."""

    async def difference(self, queue: str, limits: Limits) -> str:
        """Return a text with the properties of a channel that differ and cannot be changed; empty if none do."""
        del queue, limits
        return ""

    async def migrate(self, queue: str, limits: Limits, moved: Callable[[int], None]) -> int:
        """Make a queue again with its wanted properties and its messages; return the number of lost messages.

        `moved` is called with the number of messages of each batch. A message is lost only if a client publishes it
        meanwhile.
        """
        del queue, limits, moved
        return 0

    @abstractmethod
    async def _make(self, channel: str, limits: Limits) -> None:
        """Make a channel if it does not exist."""

    @abstractmethod
    async def _remove(self, channel: str) -> None:
        """Delete a channel if it exists."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish messages and return one outcome per message, in order, once the broker has answered.

        - `SAFE`: the broker has confirmed it.
        - Refused: the broker did not take it; the outcome has the reason (full, too large, no such queue).
        - `UNKNOWN`: the connection was lost before the confirm; publish again with the same uid.

        A message for a log is appended to it. Raises `Unreachable` only if nothing was sent.
        """

    @abstractmethod
    def consume(self, queue: str, prefetch: int) -> Consumer:
        """Start to consume a queue. The consumer reconnects by itself."""

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle deliveries. Those of a lost connection are skipped: the broker delivers them again."""

    @abstractmethod
    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give deliveries back to their queue, where any consumer may take them, as messages that came back."""

    @abstractmethod
    def read(self, log: str, start: int | Since) -> Reader:
        """Start to read a log at an offset or a time."""

    @abstractmethod
    async def end(self, log: str) -> int:
        """Return the offset that the next record will have."""

    @abstractmethod
    async def depth(self, queue: str) -> Depth:
        """Return the number of ready messages and requests; (0, 0) for a queue that does not exist."""

    @property
    def blocked(self) -> bool:
        """True if the broker as a whole refuses all messages now, for a reason that no single queue causes."""
        return bool(self.stopped_by)

    @property
    def stopped_by(self) -> str:
        """The reason why the broker refuses all messages now, such as a full disk; empty while it accepts them."""
        return ""

    def troubles(self) -> list[str]:
        """Return a text for each trouble of the broker and of the channels that this process declared."""
        stopped = [self.stopped_by] if self.stopped_by else []
        return stopped + [f"channel {channel}: {why}" for channel, why in sorted(self.upkeep.troubles.items())]

    def _observe(self, messages: Sequence[Message], outcomes: Sequence[Outcome]) -> None:
        """Ask the upkeep to check the channels that a publish did not find."""
        if NO_QUEUE in outcomes:
            lost = [message.queue for message, outcome in zip(messages, outcomes, strict=True) if outcome == NO_QUEUE]
            self.upkeep.suspect(lost)

    async def flush(self) -> None:  # noqa: B027 - most brokers settle at once
        """Return once all acks so far would survive a crash."""

    def origin(self, delivery: Delivery) -> bytes | None:
        """Return a key that identifies a delivery across all its redeliveries; None if the broker has none."""
        del delivery
        return None

    async def append(self, log: str, bodies: Sequence[bytes], headers: dict[str, Any] | None = None) -> list[Outcome]:
        """Append records to a log, in order; return one outcome per record."""
        shared = headers or NO_HEADERS
        return await self.publish([Message(queue=log, body=body, headers=shared) for body in bodies])

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        """Publish `messages`, then ack `deliveries` if all messages are safe; otherwise they stay unsettled.

        Adapters with transactions do both in one.
        """
        outcomes = await self.publish(messages)
        if all(outcome.safe for outcome in outcomes):
            await self.ack(deliveries)
        return outcomes

    async def bury(self, delivery: Delivery, *, reason: str, attempts: int, error: str) -> list[Outcome]:
        """Move a message with its original bytes and headers to `dead.<queue>`; return the outcomes of its publish."""
        message = delivery.message
        dead_queue = self.channels.dead(message.queue)
        await self.declare(dead_queue)
        return await self.forward([delivery], [dead_letter_message(message, dead_queue, reason, attempts, error)])

    def is_log(self, channel: str) -> bool:
        """Return True if a channel is a log of this installation."""
        return self.channels.is_ours(channel) and self.channels.kind(channel) in LOGS


def dead_letter_message(message: Message, dead_queue: str, reason: str, attempts: int, error: str) -> Message:
    """Return the message to bury: the original one, and headers with its queue, the reason and the attempts."""
    why = {
        "millrace-dead-queue": message.queue,
        "millrace-dead-reason": reason,
        "millrace-dead-attempts": attempts,
        "millrace-dead-error": clean(error[:1000]),
        "millrace-dead-at-us": now_us(),
    }
    return replace(message, queue=dead_queue, headers={**message.headers, **why}, delay_s=0.0)


def ladder_step_s(delay_s: float) -> float:
    """Return the step of the delay ladder for a delay, in s: the first one that is not shorter, or the longest."""
    return next((step for step in DELAY_LADDER_S if step >= delay_s), DELAY_LADDER_S[-1])
