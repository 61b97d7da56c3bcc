"""Publishes messages and returns their outcomes."""

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
_TARGETS_KEPT = 4096  # entries, because clients bring ever new reply queues


class RabbitPublisher:
    """Owns the publishing connection and the confirm channel on it."""

    def __init__(
        self, connection: RabbitConnection, topology: RabbitTopology, channels: Channels, timeout_s: float
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._channels = channels
        self._timeout_s = timeout_s
        self._user = connection.address.user
        self._confirms: ConfirmChannel | None = None
        self._opening = asyncio.Lock()
        self._targets: dict[str, tuple[bytes, bool]] = {}

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish; raises Unreachable if nothing was sent, InvalidRequest for headers that AMQP cannot represent."""
        queues = await self._queues(messages)
        confirms = await self._open_channel()
        frames = [self._frame(confirms, message, queue) for message, queue in zip(messages, queues, strict=True)]
        outcomes = await confirms.publish(frames, self._timeout_s)
        if NO_QUEUE in outcomes:  # the next attempt declares a delay queue again that has vanished
            self._topology.forget(queue for queue, outcome in zip(queues, outcomes, strict=True) if outcome == NO_QUEUE)
        return outcomes

    async def flush(self, timeout_s: float) -> None:
        """Wait until all messages are confirmed, at most `timeout_s` seconds."""
        if self._confirms is not None:
            await self._confirms.flush(timeout_s)

    async def _queues(self, messages: Sequence[Message]) -> Sequence[str]:
        """Return the queue that each message is sent to: its own, or the step of the delay ladder before it."""
        return [
            await self._topology.declare_delay(message.queue, round(ladder_step_s(message.delay_s) * 1000))
            if message.delay_s > 0
            else message.queue
            for message in messages
        ]

    async def _open_channel(self) -> ConfirmChannel:
        if self._confirms is not None and not self._confirms.channel.closed.done():
            return self._confirms
        async with self._opening:
            if self._confirms is None or self._confirms.channel.closed.done():
                amqp = await self._connection.amqp()
                confirms = ConfirmChannel(await Channel.open(amqp, "publishing", self._timeout_s))
                await confirms.start()
                self._targets.clear()
                self._confirms = confirms
            return self._confirms

    def _frame(self, confirms: ConfirmChannel, message: Message, queue: str) -> bytes | None:
        """Return a message's frames; None if it is too large for the broker."""
        if len(message.body) > MESSAGE_LIMIT_BYTES:
            return None
        try:
            start, persistent = self._targets.get(queue) or self._target(confirms, queue)
            properties = pack_properties(message, persistent=persistent, user=self._user)
        except TooLarge:
            return None
        frame_max = confirms.channel.amqp.frame_max
        if not header_fits(properties, frame_max):
            return None
        return start + content_frames(confirms.channel.number, properties, message.body, frame_max)

    def _target(self, confirms: ConfirmChannel, queue: str) -> tuple[bytes, bool]:
        if len(self._targets) >= _TARGETS_KEPT:
            self._targets.clear()
        # The broker returns even the messages that it delivers to a direct reply, so they are not sent as mandatory:
        # their SAFE only means that the broker has received them.
        mandatory = not queue.startswith(DIRECT_REPLY)
        persistent = not (self._channels.is_ours(queue) and self._channels.kind(queue) is Kind.TRANSIENT)
        target = publish_frame(confirms.channel.number, queue, mandatory=mandatory), persistent and mandatory
        self._targets[queue] = target
        return target
