"""Keeps logs and output queues within their limits; Kafka's own retention only drops whole segments after minutes.

A process that appends to a log also trims it, each time it has written an eighth of the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiokafka import TopicPartition

from broker.channels import Channels, Kind
from broker.errors import TryAgain
from broker.kafka.limits import DeclaredLimits
from broker.kafka.offsets import KafkaOffsets
from broker.messages import Message

RESULTS_LIMIT = 100_000
PART = 8


@dataclass(slots=True)
class _Written:
    messages: int = 0
    bytes: int = 0


class LogTrimmer:
    """Counts the messages that this process writes."""

    def __init__(self, offsets: KafkaOffsets, limits: DeclaredLimits, channels: Channels) -> None:
        self._offsets = offsets
        self._limits = limits
        self._channels = channels
        self._written: dict[str, _Written] = {}

    async def observe(self, messages: Sequence[Message]) -> None:
        """Count published messages, and trim the channels whose eighth is reached."""
        touched: dict[str, Kind] = {}
        for message in messages:
            kind = self._kind(message.queue)
            if kind in (Kind.LOG, Kind.RESULTS):
                touched[message.queue] = kind
                written = self._written.setdefault(message.queue, _Written())
                written.messages += 1
                written.bytes += len(message.body)
        for channel, kind in touched.items():
            kept = self._kept(channel, kind, self._written[channel])
            if kept is not None and self._written[channel].messages * PART >= kept:
                del self._written[channel]
                await self._trim(channel, kept)

    def _kind(self, channel: str) -> Kind | None:
        return self._channels.kind(channel) if self._channels.is_ours(channel) else None

    def _kept(self, channel: str, kind: Kind, written: _Written) -> int | None:
        """Return the number of messages to keep; None if Kafka's own retention decides."""
        limits = self._limits.of(channel)
        if kind is Kind.RESULTS:
            return limits.messages or RESULTS_LIMIT
        return max(1, limits.bytes * written.messages // max(1, written.bytes)) if limits.bytes else None

    async def _trim(self, channel: str, kept: int) -> None:
        partition = TopicPartition(channel, 0)
        with suppress(TryAgain):  # the messages are safe, and the next writer trims
            before = (await self._offsets.ends([partition]))[partition] - kept
            if before > 0:
                await self._offsets.trim({partition: before})
