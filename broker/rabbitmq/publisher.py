"""Publishes messages and tells what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.base import MESSAGE_LIMIT_BYTES, ladder_step_s
from broker.channels import Channels, Kind
from broker.errors import TooLarge
from broker.messages import NO_QUEUE, Message, Outcome
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.confirm_channel import ConfirmChannel
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.frames import content_frames, header_fits, publish_frame
from broker.rabbitmq.properties import pack_properties
from broker.rabbitmq.topology import RabbitTopology

DIRECT_REPLY = "amq.rabbitmq.reply-to"
_TARGETS_KEPT = 4096  # reply queues come and go


class RabbitPublisher:
    """Owns the publishing connection and the line on it."""

    def __init__(
        self, connection: RabbitConnection, topology: RabbitTopology, channels: Channels, timeout_s: float
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._channels = channels
        self._timeout_s = timeout_s
        self._user = connection.address.user
        self._line: ConfirmChannel | None = None
        self._opening = asyncio.Lock()
        self._targets: dict[str, tuple[bytes, bool]] = {}

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish; raises Unreachable when nothing was sent, InvalidRequest for headers that AMQP cannot carry."""
        queues = await self._queues(messages)
        line = await self._open_line()
        frames = [self._frame(line, message, queue) for message, queue in zip(messages, queues, strict=True)]
        outcomes = await line.publish(frames, self._timeout_s)
        if NO_QUEUE in outcomes:  # a rung that vanished is declared again by the next attempt
            self._topology.forget(queue for queue, outcome in zip(queues, outcomes, strict=True) if outcome == NO_QUEUE)
        return outcomes

    async def flush(self, timeout_s: float) -> None:
        """Wait until all is confirmed, or the time is over."""
        if self._line is not None:
            await self._line.flush(timeout_s)

    async def _queues(self, messages: Sequence[Message]) -> Sequence[str]:
        """Return where each message goes: its queue, or the rung of the ladder before it."""
        return [
            await self._topology.declare_delay(message.queue, round(ladder_step_s(message.delay_s) * 1000))
            if message.delay_s > 0
            else message.queue
            for message in messages
        ]

    async def _open_line(self) -> ConfirmChannel:
        if self._line is not None and not self._line.channel.closed.done():
            return self._line
        async with self._opening:
            if self._line is None or self._line.channel.closed.done():
                wire = await self._connection.wire()
                line = ConfirmChannel(await Channel.open(wire, "publishing", self._timeout_s))
                await line.start()
                self._targets.clear()
                self._line = line
            return self._line

    def _frame(self, line: ConfirmChannel, message: Message, queue: str) -> bytes | None:
        """Write a message's frames; None when it is too large for the broker."""
        if len(message.body) > MESSAGE_LIMIT_BYTES:
            return None
        try:
            start, persistent = self._targets.get(queue) or self._target(line, queue)
            properties = pack_properties(message, persistent=persistent, user=self._user)
        except TooLarge:
            return None
        frame_max = line.channel.wire.frame_max
        if not header_fits(properties, frame_max):
            return None
        return start + content_frames(line.channel.number, properties, message.body, frame_max)

    def _target(self, line: ConfirmChannel, queue: str) -> tuple[bytes, bool]:
        if len(self._targets) >= _TARGETS_KEPT:
            self._targets.clear()
        # The broker returns what it delivers to a direct reply, so no outcome is claimed there: safe means handed over.
        mandatory = not queue.startswith(DIRECT_REPLY)
        persistent = not (self._channels.is_ours(queue) and self._channels.kind(queue) is Kind.TRANSIENT)
        target = publish_frame(line.channel.number, queue, mandatory=mandatory), persistent and mandatory
        self._targets[queue] = target
        return target
