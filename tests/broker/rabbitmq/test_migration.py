"""A queue gets other arguments and keeps every message, even if the move is interrupted."""

from __future__ import annotations

import asyncio

import pytest

from broker.base import Broker
from broker.channels import Limits
from broker.errors import Refused
from broker.messages import FULL, SAFE, Message
from broker.rabbitmq.migration import ASIDE
from tests.contract.installation import Installation
from tests.contract.steps import fill, take

MESSAGES = 3000
OLD, NEW = Limits(messages=5000), Limits(messages=4000)


def messages(queue: str) -> list[Message]:
    return [
        Message(
            queue=queue,
            body=b"%d" % at,
            message_id=str(at),
            reply_to="mine",
            correlation_id=f"c{at}",
            headers={"timeout_ms": at, "x": "y"},
        )
        for at in range(MESSAGES)
    ]


async def holds_all(broker: Broker, queue: str) -> None:
    """Take all messages, and check that each one is there once and unchanged."""
    consumer = broker.consume(queue, MESSAGES)
    deliveries = await take(consumer, MESSAGES)
    found = {int(delivery.message.body): delivery.message for delivery in deliveries}
    assert len(found) == MESSAGES
    for at, message in found.items():
        said = message.message_id, message.reply_to, message.correlation_id, dict(message.headers)
        assert said == (str(at), "mine", f"c{at}", {"timeout_ms": at, "x": "y"})
    await broker.ack(deliveries)
    await consumer.stop()


async def test_a_queue_gets_the_limits_of_the_settings_and_keeps_its_messages(
    installation: Installation, broker: Broker
) -> None:
    queue = await installation.queue(broker, limits=OLD)
    assert await broker.publish(messages(queue)) == [SAFE] * MESSAGES
    other = await installation.broker()
    assert "x-max-length is 5000 and should be 4000" in await other.difference(queue, NEW)
    moved: list[int] = []
    assert await other.migrate(queue, NEW, moved.append) == 0
    assert sum(moved) == 2 * MESSAGES
    assert await other.difference(queue, NEW) == ""
    assert await other.missing([queue + ASIDE]) == [queue + ASIDE]
    await holds_all(other, queue)
    assert await fill(other, Message(queue=queue, body=b"x"), 4100) == FULL


@pytest.mark.parametrize("after", [1, 3, 5, 7, 9, 11])
async def test_a_move_that_ends_in_the_middle_is_finished_by_the_next_one(
    installation: Installation, broker: Broker, after: int
) -> None:
    queue = await installation.queue(broker, limits=OLD)
    assert await broker.publish(messages(queue)) == [SAFE] * MESSAGES
    other = await installation.broker()
    left = after

    def moved(_: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await other.migrate(queue, NEW, moved)
    await other.close()
    third = await installation.broker()
    assert await third.difference(queue, NEW)
    assert await third.migrate(queue, NEW, lambda _: None) == 0
    assert await third.difference(queue, NEW) == ""
    await holds_all(third, queue)


async def test_a_queue_with_more_bytes_than_its_new_limit_stays_as_it_is(
    installation: Installation, broker: Broker
) -> None:
    queue = await installation.queue(broker)
    body = bytes(1000)
    assert await broker.publish([Message(queue=queue, body=body)] * 50) == [SAFE] * 50
    other = await installation.broker()
    with pytest.raises(Refused, match="holds 50000 bytes, and its new limit is 20000"):
        await other.migrate(queue, Limits(bytes=20_000), lambda _: None)
    assert (await other.depth(queue)).messages == 50
    assert await other.missing([queue + ASIDE]) == [queue + ASIDE]
    assert await other.difference(queue, Limits()) == ""
