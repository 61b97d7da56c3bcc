"""What every channel is on RabbitMQ. The arguments are constants of the protocol: all who declare say the same."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.channels import LOGS, NO_LIMITS, Channels, Kind, Limits
from broker.errors import Refused
from broker.rabbitmq.address import NoQueue
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.connection import RabbitConnection

GIB = 1024**3
DELIVERY_LIMIT = 1000  # a backstop: our own count of attempts buries long before
NO_DELIVERY_LIMIT = 1_000_000  # RabbitMQ 4 drops after 20 where nothing is said
RESULTS_LIMIT = 100_000
TRANSIENT_LIFE_MS = 60_000
STATUS_AGE = "10m"
STATUS_SEGMENT_BYTES = 1024**2
SEGMENTS_A_LOG = 8  # a stream is trimmed by whole segments
# RabbitMQ 3.10 says that a stream is declared 2 ms before it has a writer, and closes the connection of whoever
# publishes to it in between. Nothing in AMQP tells when that is over.
STREAM_STARTS_S = 0.1

ARGUMENTS_LIMIT = 16
ESSENTIAL = frozenset({"x-queue-type", "durable", "exclusive", "auto_delete"})

LOG = logging.getLogger(__name__)

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for queue .* but current is "
    r"(?:none|(?:the value )?'(?P<value>[^']*)'(?: of type '(?P<type>[^']*)')?)",
    re.DOTALL,
)

_QUORUM = {"x-queue-type": "quorum"}
_STREAM = {"x-queue-type": "stream"}


def arguments(channels: Channels, channel: str, limits: Limits) -> dict[str, Any]:
    """Return what a channel is declared with."""
    kind = channels.kind(channel)
    if kind in LOGS:
        return _STREAM | _retention(kind, limits)
    if kind is Kind.TRANSIENT:
        # Neither exclusive nor auto-delete: it has to outlive a lost connection of its process, and soon dies after it.
        return {"x-queue-type": "classic", "x-expires": TRANSIENT_LIFE_MS} | _lengths(limits, "reject-publish")
    if kind is Kind.RESULTS:
        bound = limits if limits != NO_LIMITS else Limits(messages=RESULTS_LIMIT)
        return _QUORUM | {"x-delivery-limit": NO_DELIVERY_LIMIT} | _lengths(bound, "drop-head")
    return _QUORUM | _lengths(limits, "reject-publish") | _backstop(channels, channel)


def delay_arguments(target: str, step_ms: int) -> dict[str, Any]:
    """Return what a rung of the delay ladder is declared with: it dead-letters to its target, at least once."""
    return _QUORUM | {"x-message-ttl": step_ms} | _dead_letter_to(target)


def _retention(kind: Kind, limits: Limits) -> dict[str, Any]:
    if kind is Kind.DECLARED:
        return {}
    if kind is Kind.STATUS:
        return {"x-max-age": STATUS_AGE, "x-stream-max-segment-size-bytes": STATUS_SEGMENT_BYTES}
    size = limits.bytes or GIB
    return {"x-max-length-bytes": size, "x-stream-max-segment-size-bytes": max(1, size // SEGMENTS_A_LOG)}


def _lengths(limits: Limits, overflow: str) -> dict[str, Any]:
    lengths: dict[str, Any] = {}
    if limits.messages:
        lengths["x-max-length"] = limits.messages
    if limits.bytes:
        lengths["x-max-length-bytes"] = limits.bytes
    return lengths | {"x-overflow": overflow} if lengths else lengths


def _backstop(channels: Channels, queue: str) -> dict[str, Any]:
    grave = channels.dead(queue)
    if queue.startswith(channels.dead("")):
        return {"x-delivery-limit": NO_DELIVERY_LIMIT}
    return {"x-delivery-limit": DELIVERY_LIMIT} | _dead_letter_to(grave)


def _dead_letter_to(queue: str) -> dict[str, Any]:
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",  # asks for the overflow below
        "x-overflow": "reject-publish",
    }


class RabbitTopology:
    """Declares, deletes and measures, each on a channel of its own: a refused declaration closes its channel."""

    def __init__(self, connection: RabbitConnection, channels: Channels, timeout_s: float) -> None:
        self._connection = connection
        self._channels = channels
        self._timeout_s = timeout_s
        self._wire: AmqpConnection | None = None
        self._declared: set[tuple[str, Limits]] = set()
        self._starting = asyncio.Lock()
        self._found: dict[str, Mapping[str, Any]] = {}  # with which arguments each queue was there
        self._otherwise: dict[str, str] = {}  # queues that are there with other arguments, and what was said of each

    async def channel(self, what: str) -> Channel:
        """Open a channel to throw away; what was declared is forgotten when the connection is a new one."""
        wire = await self._connection.wire()
        if wire is not self._wire:
            self._wire = wire
            self._declared.clear()
        return await Channel.open(wire, what, self._timeout_s)

    async def declare(self, channel: str, limits: Limits) -> None:
        """Declare a channel, once a connection; raises Refused when the broker does not allow it."""
        if self._channels.kind(channel) not in LOGS:
            await self._declare(channel, limits, arguments(self._channels, channel, limits))
            return
        async with self._starting:  # nobody may take a stream for ready while another waits for it
            known = self._is_declared(channel, limits)
            await self._declare(channel, limits, arguments(self._channels, channel, limits))
            if not known:
                await asyncio.sleep(STREAM_STARTS_S)

    async def declare_delay(self, target: str, step_ms: int) -> str:
        """Declare a rung of the ladder for `target` and return its name."""
        queue = self._channels.delay(target, step_ms)
        await self._declare(queue, NO_LIMITS, delay_arguments(target, step_ms))
        return queue

    async def _declare(self, queue: str, limits: Limits, wanted: Mapping[str, Any]) -> None:
        if self._is_declared(queue, limits):
            return
        found = self._found[queue] = await self._declare_as_it_is(queue, wanted)
        if found == wanted:
            self._otherwise.pop(queue, None)
        else:
            self._say_otherwise(queue, differences(wanted, found))
        self._declared.add((queue, limits))

    async def _declare_as_it_is(self, queue: str, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """Declare a queue, and return its arguments: those that are wanted, or those of the queue that is there.

        An argument cannot be changed, and each refusal names one that differs. So the next attempt has what is there;
        only a queue of another type is none that can be used.
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
        raise Refused(f"declaring {queue}: it is there with other arguments: `millrace queues migrate` shows them")

    def _say_otherwise(self, queue: str, how: str) -> None:
        if self._otherwise.get(queue) != how:
            self._otherwise[queue] = how
            LOG.warning(
                "%s is there with other arguments, which stay in force: %s; `millrace queues migrate` changes them",
                queue,
                how,
            )

    async def arguments_of(self, queue: str, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments that a queue has, as far as they matter to `wanted`; it is made if it is not there."""
        return await self._declare_as_it_is(queue, wanted)

    def _is_declared(self, queue: str, limits: Limits) -> bool:
        return (queue, limits) in self._declared and self._wire is not None and self._wire.is_open

    def forget(self, queues: Iterable[str]) -> None:
        """Declare these queues again the next time."""
        gone = set(queues)
        self._declared = {known for known in self._declared if known[0] not in gone}

    async def delete(self, queue: str) -> int:
        """Delete a queue or stream with all that is in it; returns how many messages that was."""
        self.forget([queue])
        async with await self.channel(f"deleting {queue}") as channel:
            answer = await channel.call("queue_delete", queue=queue)
        return int(answer.method.message_count)

    async def missing(self, queues: Sequence[str]) -> list[str]:
        """Return those of these queues that are not there, and declare them again the next time.

        A log in whose place is something else is not there either.
        """
        gone: list[str] = []
        left = iter(queues)
        found = True
        while found:
            found = False
            async with await self.channel("looking at queues") as channel:
                for queue in left:  # until one is not there: that closes the channel
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
                        found = True  # else it is there, and is not ours to look at
                        break
        self.forget(gone)
        return gone

    async def _compare(self, channel: Channel, queue: str) -> None:
        """Raise Refused for a log that is not what it was: nothing could be read from a queue in its place."""
        if queue in self._found and self._channels.kind(queue) in LOGS:
            await channel.call("queue_declare", queue=queue, durable=True, arguments=dict(self._found[queue]))

    async def exists(self, queue: str) -> bool:
        """Tell whether a queue or stream is there."""
        return await self._look(queue) is not None

    async def ready(self, queue: str) -> int:
        """Return how many messages are ready; none in a queue that is not there."""
        return await self._look(queue) or 0

    async def _look(self, queue: str) -> int | None:
        async with await self.channel(f"measuring {queue}") as channel:
            try:
                answer = await channel.call("queue_declare", queue=queue, passive=True)
            except NoQueue:
                return None
        return int(answer.method.message_count)


def read_inequivalent(text: str) -> tuple[str | None, str | int | None]:
    """Read which argument of a queue differs, and its value there, from RabbitMQ's words; (None, None) for others.

    They are "inequivalent arg 'NAME' for queue … received … but current is the value 'VALUE' of type 'TYPE'", and end
    in "none" where the queue has no such argument.
    """
    found = _INEQUIVALENT.search(text)
    if found is None:
        return None, None
    value = found["value"]
    if value is not None and found["type"] not in ("longstr", "shortstr"):
        return found["name"], int(value) if value.lstrip("-").isdigit() else value
    return found["name"], value


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return in which arguments two declarations of a queue differ."""
    names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    return ", ".join(
        f"{name} is {found.get(name, 'not set')} and should be {wanted.get(name, 'not set')}" for name in names
    )
