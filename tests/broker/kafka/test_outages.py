"""Kafka stops and starts again: confirmed messages are kept, and unconfirmed ones are published again by the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.channels import Channels
from broker.connect import connect
from broker.errors import Unreachable
from broker.messages import SAFE, Message
from tests.contract.installation import Installation
from tests.servers import control_kafka, kafka_url, kafkas_url

MESSAGES = 2000
EVERY = 100
PATIENCE_S = 90.0


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with Installation(kafka_url(), user=None) as installation:
        yield installation


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_nothing_that_was_confirmed_is_lost(installation: Installation, how: str) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    taken: set[bytes] = set()

    async def take() -> None:
        consumer = broker.consume(queue, 100)
        while len(taken) < MESSAGES:
            deliveries = await consumer.take(100)
            taken.update(delivery.message.body for delivery in deliveries)
            await broker.ack(deliveries)

    async def publish() -> None:
        for at in range(0, MESSAGES, EVERY):
            messages = [Message(queue=queue, body=b"%d" % number) for number in range(at, at + EVERY)]
            while messages:
                try:
                    outcomes = await broker.publish(messages)
                except Unreachable:
                    await asyncio.sleep(0.2)
                    continue
                messages = [each for each, outcome in zip(messages, outcomes, strict=True) if outcome is not SAFE]
            await asyncio.sleep(0.02)

    taking, publishing = asyncio.create_task(take()), asyncio.create_task(publish())
    await asyncio.sleep(0.15)
    await asyncio.to_thread(control_kafka, how)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(control_kafka, "start")
    async with asyncio.timeout(PATIENCE_S):
        await publishing
        await taking
    assert taken == {b"%d" % number for number in range(MESSAGES)}


async def test_the_error_for_an_unreachable_broker_names_it() -> None:
    with pytest.raises(Unreachable, match=r"kafka://127\.0\.0\.1:1:.*|kafka://127\.0\.0\.1:1"):
        await connect("kafka://127.0.0.1:1", Channels()).open()


async def test_messages_travel_over_tls_with_a_password() -> None:
    async with Installation(kafkas_url(), user=None) as installation:
        broker = await installation.broker()
        queue = await installation.queue(broker)
        assert await broker.publish([Message(queue=queue, body=b"secret")]) == [SAFE]
        async with asyncio.timeout(30):
            (delivery,) = await broker.consume(queue, 10).take(1)
        assert delivery.message.body == b"secret"


async def test_the_error_for_a_wrong_password_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    url = kafkas_url()
    password = url.split(":")[2].split("@")[0]
    broker = connect(url.replace(password, "hunter2"), Channels())
    with pytest.raises(Unreachable) as caught:
        await broker.open()
    shown = f"{caught.value}{caught.value.__cause__}{broker!r}{caplog.text}"
    assert "password" in str(caught.value)
    assert "hunter2" not in shown
    assert password not in shown
