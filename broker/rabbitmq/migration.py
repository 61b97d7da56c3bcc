"""Gives a queue other arguments, which RabbitMQ cannot change: moves its messages aside, then into a new queue.

Every message is always in at least one of the two queues: it is acked in one after the other has confirmed it. Only
messages that are published between the last check and the deletion are lost, so no client should publish meanwhile.
Their number is returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from broker.base import Broker
from broker.channels import NO_LIMITS, Limits
from broker.errors import Refused, Unavailable
from broker.messages import Delivery
from broker.rabbitmq.queue_arguments import arguments, differences
from broker.rabbitmq.topology import RabbitTopology

ASIDE = ".migrating"
TAKE = 500
CHECK_S = 1.0


async def difference(topology: RabbitTopology, broker: Broker, queue: str, limits: Limits) -> str:
    """Return a text with the arguments in which a queue differs from the wanted ones; empty if it does not."""
    if not await broker.missing([queue + ASIDE]):
        return "its move was not finished"
    if await broker.missing([queue]):
        return ""
    wanted = arguments(broker.channels, queue, limits)
    return differences(wanted, await topology.find_arguments(queue, wanted))


async def migrate(
    topology: RabbitTopology, broker: Broker, queue: str, limits: Limits, moved: Callable[[int], None]
) -> int:
    """Give a queue its wanted arguments; return the number of lost messages. It can be repeated after an error."""
    aside = queue + ASIDE
    await _check_room(broker, queue, aside, arguments(broker.channels, queue, limits).get("x-max-length", 0))
    await broker.declare(aside, NO_LIMITS)
    moved_bytes = await _move(broker, queue, aside, moved)
    if limits.bytes and moved_bytes > limits.bytes and not await broker.missing([queue]):
        await _move(broker, aside, queue, moved)
        await broker.delete(aside)
        raise _no_room(queue, f"{moved_bytes} bytes", limits.bytes)
    broker.upkeep.forget(queue)
    lost = await topology.delete(queue)
    await broker.declare(queue, limits)
    await _move(broker, aside, queue, moved)
    await broker.delete(aside)
    return lost


async def _check_room(broker: Broker, queue: str, aside: str, limit: int) -> None:
    """Raise Refused if the new queue's limit is too small for all messages."""
    held = sum([(await broker.depth(one)).messages for one in (queue, aside)])
    if limit and held > limit:
        raise _no_room(queue, f"{held} messages", limit)


def _no_room(queue: str, held: str, limit: int) -> Refused:
    return Refused(
        f"{queue} holds {held}, and its new limit is {limit}: it stays as it is; let it be consumed first, or raise "
        "the limit"
    )


async def _move(broker: Broker, source: str, target: str, moved: Callable[[int], None]) -> int:
    """Move all messages of one queue into another, in order. Returns the bytes of their bodies."""
    size = 0
    consumer = broker.consume(source, TAKE)
    try:
        while True:
            try:
                async with asyncio.timeout(CHECK_S):
                    deliveries = await consumer.take(TAKE)
            except TimeoutError:
                if not (await broker.depth(source)).messages:
                    return size
                continue
            await _forward(broker, deliveries, target)
            size += sum(len(delivery.message.body) for delivery in deliveries)
            moved(len(deliveries))
    finally:
        await consumer.stop()


async def _forward(broker: Broker, deliveries: Sequence[Delivery], target: str) -> None:
    """Publish messages and ack the confirmed ones: a refused one stays in its queue, and no other is there twice."""
    outcomes = await broker.publish([replace(delivery.message, queue=target) for delivery in deliveries])
    pairs = list(zip(deliveries, outcomes, strict=True))
    await broker.ack([delivery for delivery, outcome in pairs if outcome.safe])
    refused = [(delivery, outcome) for delivery, outcome in pairs if not outcome.safe]
    if refused:
        await broker.requeue([delivery for delivery, _ in refused])
        raise Unavailable(
            f"{target} refused messages that were moved into it ({refused[0][1]}): nothing is lost; repeat the command"
        )
