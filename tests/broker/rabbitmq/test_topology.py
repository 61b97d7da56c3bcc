"""Queues and streams on RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from broker.base import Broker, Consumer
from broker.channels import Channels, Limits
from broker.errors import Refused, TryAgain
from broker.messages import FULL, NO_QUEUE, SAFE, Message
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.queue_arguments import arguments
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, fill, take, until

CHANNELS = Channels("p.")


async def test_a_queue_with_other_limits_is_used_as_it_is_with_a_warning(
    installation: Installation, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await installation.queue(broker, limits=Limits(messages=3))
    other = await installation.broker()
    for _ in range(2):
        await other.declare(queue, Limits(messages=5, bytes=2000))
    said = [record.message for record in caplog.records if "with other arguments" in record.message]
    assert len(said) == 1
    assert "x-max-length is 3 and should be 5" in said[0]
    assert "x-max-length-bytes is not set and should be 2000" in said[0]
    assert "millrace queues migrate" in said[0]
    assert await fill(other, Message(queue=queue, body=b"x"), 100) == FULL


async def test_a_log_with_another_retention_is_used_as_it_is(installation: Installation, broker: Broker) -> None:
    log = await installation.log(broker, limits=Limits(bytes=1 << 20))
    other = await installation.broker()
    await other.declare(log, Limits(bytes=1 << 22))
    assert await other.append(log, [b"x"]) == [SAFE]


async def test_a_queue_of_another_type_is_refused_without_closing_the_connection(
    installation: Installation, broker: Broker
) -> None:
    foreign, queue = installation.channels.requests("foreign"), await installation.queue(broker)
    consumer = broker.consume(queue, 10)
    amqp = await AmqpConnection.open(RabbitAddress.of(installation.url), "declares first")
    await (await Channel.open(amqp, "declaring", DEADLINE_S)).call("queue_declare", queue=foreign, durable=True)
    with pytest.raises(Refused, match=f"{foreign}.*x-queue-type"):
        await broker.declare(foreign)
    assert await broker.publish([Message(queue=queue, body=b"x")]) == [SAFE]
    assert bodies(await take(consumer)) == [b"x"]
    await broker.delete(foreign)
    await amqp.shut(DEADLINE_S)


async def test_a_log_that_was_replaced_by_another_kind_of_queue_is_a_trouble(
    installation: Installation, broker: Broker
) -> None:
    log = await installation.log(broker)
    await broker.delete(log)
    await broker.declare(log)
    other = await installation.broker()
    await other.delete(log)
    amqp = await AmqpConnection.open(RabbitAddress.of(installation.url), "makes another one")
    await (await Channel.open(amqp, "declaring", DEADLINE_S)).call("queue_declare", queue=log, durable=True)
    await broker.upkeep.check()
    assert "x-queue-type" in broker.upkeep.troubles[log]
    assert any(log in trouble for trouble in broker.troubles())
    await other.delete(log)
    await broker.upkeep.check()
    assert broker.upkeep.troubles == {}
    assert await broker.append(log, [b"x"]) == [SAFE]
    await amqp.shut(DEADLINE_S)


async def test_a_transient_queue_survives_a_lost_connection(installation: Installation, broker: Broker) -> None:
    answers = installation.channels.answers("i")
    await broker.declare(answers)
    other = await installation.broker()
    assert await other.publish([Message(queue=answers, body=b"x")]) == [SAFE]
    await broker.delete(answers)
    assert await other.publish([Message(queue=answers, body=b"x")]) == [NO_QUEUE]


async def test_a_transient_queue_that_expired_is_declared_again(installation: Installation, broker: Broker) -> None:
    answers = installation.channels.answers("i")
    await broker.declare(answers)
    other = await installation.broker()
    await other.delete(answers)
    consumer = broker.consume(answers, 10)
    waiting = asyncio.create_task(consumer.take(1))
    await until(lambda: other.publish([Message(queue=answers, body=b"x")]), [SAFE])
    assert bodies(await waiting) == [b"x"]
    await broker.delete(answers)


async def test_a_consumer_waits_for_its_queue(installation: Installation, broker: Broker) -> None:
    consumer = broker.consume(installation.channels.requests("a"), 10)
    waiting = asyncio.create_task(consumer.take(1))
    await asyncio.sleep(0.1)
    queue = await installation.queue(broker)
    await broker.publish([Message(queue=queue, body=b"x")])
    assert bodies(await waiting) == [b"x"]


async def test_a_consumer_whose_queue_was_deleted_uses_the_new_one(installation: Installation, broker: Broker) -> None:
    queue = await installation.queue(broker)
    consumer = broker.consume(queue, 10)
    await broker.publish([Message(queue=queue, body=b"first")])
    await take(consumer)
    await broker.delete(queue)
    await asyncio.sleep(0.3)  # RabbitMQ 3.10 does not notify a consumer if a new queue is made within 50 ms
    await broker.declare(queue)
    await broker.publish([Message(queue=queue, body=b"second")])
    assert bodies(await take(consumer)) == [b"second"]


async def test_a_consumer_without_permission_is_a_trouble_and_starts_once_it_is_permitted(
    installation: Installation, broker: Broker
) -> None:
    amqp = await AmqpConnection.open(RabbitAddress.of(installation.url), "owns a queue")
    channel = await Channel.open(amqp, "owning", DEADLINE_S)
    queue = installation.channels.requests("exclusive")
    await channel.call("queue_declare", queue=queue, exclusive=True)
    consumer = broker.consume(queue, 10)
    waiting = asyncio.create_task(consumer.take(1))
    await until(lambda: named(consumer, queue), wanted=True)
    await amqp.shut(DEADLINE_S)
    await until(lambda: declared(installation, broker), queue)
    await broker.publish([Message(queue=queue, body=b"x")])
    assert bodies(await waiting) == [b"x"]
    assert consumer.trouble == ""


async def named(consumer: Consumer, queue: str) -> bool:
    """Return True if the consumer's trouble is that another user owns the queue."""
    return queue in consumer.trouble and "RESOURCE_LOCKED" in consumer.trouble


async def declared(installation: Installation, broker: Broker) -> str | None:
    """Declare the queue, once its owner is gone."""
    try:
        return await installation.queue(broker, "exclusive")
    except Refused:
        return None


async def test_a_returned_message_is_matched_with_its_publish(installation: Installation, broker: Broker) -> None:
    queue = await installation.queue(broker)
    before = [Message(queue=queue, body=b"x", message_id=str(at), headers={"n": at}) for at in range(50)]
    deleting = asyncio.create_task(broker.delete(queue))
    # During the deletion, RabbitMQ 3.10 nacks some publishes and may close the connection: any outcome is correct.
    for message in before:
        with contextlib.suppress(TryAgain):
            await broker.publish([message])
    await deleting
    async with asyncio.timeout(DEADLINE_S):
        while not await is_gone(broker, before[0]):  # noqa: ASYNC110 - the broker sends no event
            await asyncio.sleep(0)
    assert await broker.publish(before) == [NO_QUEUE] * 50


async def is_gone(broker: Broker, message: Message) -> bool:
    """Return True if a publish finds no queue."""
    try:
        return await broker.publish([message]) == [NO_QUEUE]
    except TryAgain:
        return False


async def test_direct_replies_are_handed_over(broker: Broker) -> None:
    assert await broker.publish([Message(queue="amq.rabbitmq.reply-to.nobody", body=b"x")]) == [SAFE]


@pytest.mark.parametrize(
    ("channel", "wanted"),
    [
        (CHANNELS.requests("e"), {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 1000}),
        (CHANNELS.dead(CHANNELS.requests("e")), {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}),
        (CHANNELS.results("e"), {"x-queue-type": "quorum", "x-overflow": "drop-head", "x-max-length": 100_000}),
        (CHANNELS.answers("i"), {"x-queue-type": "classic", "x-expires": 60_000}),
        (CHANNELS.events("e"), {"x-queue-type": "stream", "x-max-length-bytes": 1024**3}),
        (CHANNELS.status, {"x-queue-type": "stream", "x-max-age": "10m"}),
    ],
)
def test_every_kind_of_channel_has_its_arguments(channel: str, wanted: dict[str, object]) -> None:
    declared = arguments(CHANNELS, channel, Limits())
    assert wanted.items() <= declared.items()


def test_declared_state_is_never_trimmed() -> None:
    assert arguments(CHANNELS, CHANNELS.declared, Limits(bytes=1)) == {"x-queue-type": "stream"}
