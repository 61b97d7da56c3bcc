"""More subscriptions than a connection has channels for."""

from __future__ import annotations

from broker.messages import SAFE, Message
from broker.rabbitmq.adapter import RabbitBroker
from tests.contract.installation import Installation
from tests.contract.steps import bodies, read, take


async def test_subscriptions_beyond_the_limit_of_a_connection_use_another_one(installation: Installation) -> None:
    async with RabbitBroker(installation.url, installation.channels, subscriptions=2) as broker:
        queues = [await installation.queue(broker, f"q{at}") for at in range(5)]
        log = await installation.log(broker)
        consumers = [broker.consume(queue, 10) for queue in queues]
        reader = broker.read(log, 0)
        assert await broker.publish([Message(queue=queue, body=queue.encode()) for queue in queues]) == [SAFE] * 5
        await broker.append(log, [b"record"])
        for queue, consumer in zip(queues, consumers, strict=True):
            taken = await take(consumer)
            assert bodies(taken) == [queue.encode()]
            await broker.ack(taken)
        assert bodies(await read(reader, 1)) == [b"record"]
        await reader.close()
    async with RabbitBroker(installation.url, installation.channels) as later:
        assert [(await later.depth(queue)).messages for queue in queues] == [0] * 5
