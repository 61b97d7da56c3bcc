"""Declares, deletes and measures queues and streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.channels import LOGS, NO_LIMITS, Channels, Limits
from broker.errors import Refused
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.connection import RabbitConnection
from broker.rabbitmq.queue_arguments import arguments, delay_arguments, differences, read_inequivalent

logger = logging.getLogger(__name__)

# RabbitMQ 3.10 confirms the declaration of a stream 2 ms before it has a writer, and closes the connection of a client
# that publishes to it in between. AMQP has no call that shows when the writer exists.
STREAM_STARTS_S = 0.1

ARGUMENTS_LIMIT = 16
ESSENTIAL = frozenset({"x-queue-type", "durable", "exclusive", "auto_delete"})


class RabbitTopology:
    """Opens a new channel for each call, because a refused declaration closes its channel."""

    def __init__(self, connection: RabbitConnection, channels: Channels, timeout_s: float) -> None:
        self._connection = connection
        self._channels = channels
        self._timeout_s = timeout_s
        self._amqp: AmqpConnection | None = None
        self._declared: set[tuple[str, Limits]] = set()
        self._starting = asyncio.Lock()
        self._found: dict[str, Mapping[str, Any]] = {}  # the arguments of each existing queue
        self._different: dict[str, str] = {}  # queues with other arguments, each with its logged warning

    async def channel(self, purpose: str) -> Channel:
        """Open a channel for a few calls; `purpose` begins its error texts.

        After a reconnect all queues count as undeclared.
        """
        amqp = await self._connection.amqp()
        if amqp is not self._amqp:
            self._amqp = amqp
            self._declared.clear()
        return await Channel.open(amqp, purpose, self._timeout_s)

    async def declare(self, channel: str, limits: Limits) -> None:
        """Declare a channel once for each connection; raises Refused if the broker does not allow it."""
        if self._channels.kind(channel) not in LOGS:
            await self._declare(channel, limits, arguments(self._channels, channel, limits))
            return
        async with self._starting:  # no task may use a stream while another one waits until it is ready
            known = self._is_declared(channel, limits)
            await self._declare(channel, limits, arguments(self._channels, channel, limits))
            if not known:
                await asyncio.sleep(STREAM_STARTS_S)

    async def declare_delay(self, target: str, step_ms: int) -> str:
        """Declare a step of the delay ladder for `target`; return the name of its queue."""
        queue = self._channels.delay(target, step_ms)
        await self._declare(queue, NO_LIMITS, delay_arguments(target, step_ms))
        return queue

    async def _declare(self, queue: str, limits: Limits, wanted: Mapping[str, Any]) -> None:
        if self._is_declared(queue, limits):
            return
        found = self._found[queue] = await self.find_arguments(queue, wanted)
        if found == wanted:
            self._different.pop(queue, None)
        else:
            self._warn_of_difference(queue, differences(wanted, found))
        self._declared.add((queue, limits))

    async def find_arguments(self, queue: str, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """Declare a queue if it does not exist; return its arguments, `wanted` or those of the existing queue.

        An argument cannot be changed, and each refusal names one that differs. So the next attempt has the existing
        value. Raises Refused for a queue of another type.
        """
        found = dict(wanted)
        for _ in range(ARGUMENTS_LIMIT):
            async with await self.channel(f"declaring {queue}") as channel:
                try:
                    await channel.call("queue_declare", queue=queue, durable=True, arguments=found)
                except Refused as exc:
                    name, value = read_inequivalent(str(exc))
                    if name is None or name in ESSENTIAL or found.get(name) == value:
                        raise
                    found = {key: kept for key, kept in found.items() if key != name}
                    if value is not None:
                        found[name] = value
                else:
                    return found
        raise Refused(f"declaring {queue}: it exists with other arguments: `millrace queues migrate` shows them")

    def _warn_of_difference(self, queue: str, how: str) -> None:
        if self._different.get(queue) != how:
            self._different[queue] = how
            logger.warning(
                "%s exists with other arguments, which stay in force: %s; `millrace queues migrate` changes them",
                queue,
                how,
            )

    def _is_declared(self, queue: str, limits: Limits) -> bool:
        return (queue, limits) in self._declared and self._amqp is not None and self._amqp.is_open

    def forget(self, queues: Iterable[str]) -> None:
        """Declare these queues again the next time."""
        gone = set(queues)
        self._declared = {known for known in self._declared if known[0] not in gone}

    async def delete(self, queue: str) -> int:
        """Delete a queue or stream; return the number of messages that it had."""
        self.forget([queue])
        async with await self.channel(f"deleting {queue}") as channel:
            answer = await channel.call("queue_delete", queue=queue)
        return int(answer.method.message_count)

    async def missing(self, queues: Sequence[str]) -> list[str]:
        """Return those of these queues that do not exist, and declare them again the next time.

        A log whose name another kind of queue has counts as missing.
        """
        gone: list[str] = []
        left = iter(queues)
        found = True
        while found:
            found = False
            async with await self.channel("looking at queues") as channel:
                for queue in left:  # until one does not exist: that closes the channel
                    try:
                        await channel.call("queue_declare", queue=queue, passive=True)
                        await self._compare(channel, queue)
                    except NoQueue:
                        gone.append(queue)
                        found = True
                        break
                    except Refused as exc:
                        if read_inequivalent(str(exc))[0] is not None:
                            gone.append(queue)
                        found = True  # otherwise it exists, and this user may not inspect it
                        break
        self.forget(gone)
        return gone

    async def _compare(self, channel: Channel, queue: str) -> None:
        """Raise Refused for a log that was replaced by another kind of queue: nothing could be read from it."""
        if queue in self._found and self._channels.kind(queue) in LOGS:
            await channel.call("queue_declare", queue=queue, durable=True, arguments=dict(self._found[queue]))

    async def exists(self, queue: str) -> bool:
        """Return True if a queue or stream exists."""
        return await self._count(queue) is not None

    async def ready(self, queue: str) -> int:
        """Return the number of ready messages; 0 for a queue that does not exist."""
        return await self._count(queue) or 0

    async def _count(self, queue: str) -> int | None:
        async with await self.channel(f"measuring {queue}") as channel:
            try:
                answer = await channel.call("queue_declare", queue=queue, passive=True)
            except NoQueue:
                return None
        return int(answer.method.message_count)
