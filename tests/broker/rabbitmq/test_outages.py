"""A lost connection, a full memory or a restart of the broker loses no message that was confirmed."""

from __future__ import annotations

import asyncio
import errno
import socket
import time

import pytest

from broker.base import Broker, Consumer
from broker.channels import Channels
from broker.errors import Misconfigured, Unreachable
from broker.messages import SAFE, STOPPED, UNKNOWN, Message
from broker.rabbitmq.adapter import RabbitBroker
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, read, take, until
from tests.proxy import Proxy
from tests.servers import control_rabbitmq

NOBODY = "amqp://somebody:secret-word@127.0.0.1:1/"


async def publish_until_safe(broker: Broker, messages: list[Message]) -> int:
    """Publish unknown messages again, like the outbox; return how many had to be."""
    again = 0
    async with asyncio.timeout(60):
        while messages:
            try:
                outcomes = await broker.publish(messages)
            except Unreachable:
                again += len(messages)
                await asyncio.sleep(0.1)
                continue
            messages = [message for message, outcome in zip(messages, outcomes, strict=True) if outcome != SAFE]
            again += len(messages)
            if messages:
                await asyncio.sleep(0.01)
    return again


async def publish_until(over: asyncio.Event, broker: Broker, queue: str) -> tuple[set[bytes], int]:
    """Publish without a pause; return the bodies, and how many were published more than once."""
    sent: set[bytes] = set()
    again = 0
    while not over.is_set() or len(sent) < 5000:
        messages = [Message(queue=queue, body=b"%d" % (len(sent) + at)) for at in range(500)]
        again += await publish_until_safe(broker, messages)
        sent.update(message.body for message in messages)
    return sent, again


async def consumed(got: set[bytes], sent: set[bytes]) -> bool:
    """Return True if all sent bodies have arrived."""
    return got >= sent


async def consume_into(got: set[bytes], broker: Broker, consumer: Consumer) -> None:
    """Take and ack until the consumer is stopped."""
    while deliveries := await consumer.take(100):
        got.update(bodies(deliveries))
        await broker.ack(deliveries)


async def test_confirmed_messages_survive_a_cut_during_a_publish(
    installation: Installation, proxy: Proxy, broker: Broker
) -> None:
    queue = await installation.queue(broker)
    messages = [Message(queue=queue, body=b"%05d" % at * 20) for at in range(5000)]
    async with RabbitBroker(proxy.url, installation.channels) as cut_off:
        await cut_off.publish([Message(queue=queue, body=b"first")])
        proxy.cut_after(sent_bytes=400_000)
        outcomes = await cut_off.publish(messages)
        assert set(outcomes) == {SAFE, UNKNOWN}
        assert await cut_off.publish([Message(queue=queue, body=b"last")]) == [SAFE]
    safe = {message.body for message, outcome in zip(messages, outcomes, strict=True) if outcome is SAFE}
    consumer = broker.consume(queue, 10_000)
    got: set[bytes] = set()
    async with asyncio.timeout(DEADLINE_S):
        while b"last" not in got:
            got |= set(bodies(await consumer.take(1000)))
    assert got >= safe


async def test_a_consumer_continues_after_a_cut(installation: Installation, proxy: Proxy, broker: Broker) -> None:
    queue = await installation.queue(broker)
    await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(4)])
    async with RabbitBroker(proxy.url, installation.channels) as cut_off:
        consumer = cut_off.consume(queue, 10)
        before = await take(consumer, 4)
        await cut_off.ack(before[:1])
        await cut_off.ping()
        proxy.cut()
        again = await take(consumer, 3)
        assert sorted(bodies(again)) == sorted(bodies(before[1:]))
        assert all(delivery.came_back > 0 for delivery in again)
        await cut_off.ack(before)
        await cut_off.requeue(before)
        await cut_off.ack(again)
        await cut_off.ping()
    assert (await broker.depth(queue)).messages == 0


async def test_a_reader_continues_after_a_cut_at_its_offset(
    installation: Installation, proxy: Proxy, broker: Broker
) -> None:
    log = await installation.log(broker)
    wanted = [b"%d" % at for at in range(1000)]
    await broker.append(log, wanted)
    async with RabbitBroker(proxy.url, installation.channels) as cut_off:
        reader = cut_off.read(log, 0)
        got = bodies(await read(reader, 100))
        for _ in range(3):
            proxy.cut()
            got += bodies(await read(reader, 300))
    assert got == wanted


async def test_a_connection_that_is_reset_at_once_is_an_unreachable_broker(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getpeername(_: socket.socket) -> None:
        raise OSError(errno.ENOTCONN, "reset")

    troubles: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(str(trouble)))
    broker = RabbitBroker(installation.url, installation.channels)
    monkeypatch.setattr(socket.socket, "getpeername", getpeername)
    with pytest.raises(Unreachable):
        await broker.open()
    await broker.close()
    assert troubles == []


async def test_the_error_for_an_unreachable_broker_does_not_show_the_password(installation: Installation) -> None:
    broker = RabbitBroker(NOBODY, installation.channels)
    with pytest.raises(Unreachable) as caught:
        await broker.open()
    with pytest.raises(Unreachable):
        await broker.publish([Message(queue="q", body=b"x")])
    await broker.close()
    assert str(caught.value) == "no broker answers at amqp://127.0.0.1:1: is it running, and is broker.url right?"
    assert "secret-word" not in f"{broker!r} {caught.value!r}"


async def test_a_wrong_password_is_a_wrong_setting(installation: Installation) -> None:
    url = installation.url.replace("guest:guest", "guest:secret-word")
    broker = RabbitBroker(url, installation.channels)
    with pytest.raises(Misconfigured, match="refuses the user") as caught:
        await broker.open()
    await broker.close()
    assert "secret-word" not in str(caught.value)


def test_a_url_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(Misconfigured) as caught:
        RabbitBroker("amqp://guest:secret-word@host:port/", Channels())
    assert "secret-word" not in str(caught.value)


async def test_an_alarm_refuses_publishes_at_once_and_nothing_else(installation: Installation) -> None:
    async with RabbitBroker(installation.url, installation.channels, timeout_s=3.0) as broker:
        queue = await installation.queue(broker)
        message = Message(queue=queue, body=b"x")
        assert await broker.publish([message] * 10) == [SAFE] * 10
        await asyncio.to_thread(control_rabbitmq, "alarm", "on")
        try:
            await broker.publish([message])
            began_s = time.monotonic()
            assert await broker.publish([message] * 2000) == [STOPPED] * 2000
            assert "takes no messages now: it is low on memory" in broker.stopped_by
            assert broker.troubles() == [broker.stopped_by]
            assert time.monotonic() - began_s < 0.5
            await broker.ack(await take(broker.consume(queue, 100), 10))
            await broker.depth(queue)
            await broker.ping()
        finally:
            await asyncio.to_thread(control_rabbitmq, "alarm", "off")
        await publish_until_safe(broker, [message])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", ["restart", "kill"])
async def test_a_restart_with_messages_in_flight_loses_nothing(
    end: str, installation: Installation, broker: Broker
) -> None:
    queue = await installation.queue(broker)
    log = await installation.log(broker)
    await broker.append(log, [b"before"])
    reader = broker.read(log, 0)
    await read(reader, 1)
    if end == "kill":
        # A queue of RabbitMQ 3.10 that is some seconds old when its only node is killed has no leader afterwards, and
        # cannot be used until the node starts once more. Nothing of it is lost.
        await asyncio.sleep(10)
    consumer = broker.consume(queue, 500)
    got: set[bytes] = set()
    consuming = asyncio.create_task(consume_into(got, broker, consumer))
    over = asyncio.Event()
    publishing = asyncio.create_task(publish_until(over, broker, queue))
    await asyncio.to_thread(control_rabbitmq, end)
    await asyncio.to_thread(control_rabbitmq, "start")
    over.set()
    sent, again = await publishing
    assert len(sent) >= 5000
    assert again > 0
    await until(lambda: consumed(got, sent), wanted=True)
    consuming.cancel()
    assert await broker.end(log) == 1
    await broker.append(log, [b"after"])
    assert bodies(await read(reader, 1)) == [b"after"]
