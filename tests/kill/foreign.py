"""Queues that other programs created with our names, so that the broker refuses ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from broker.kafka.adapter import KafkaBroker
from broker.kafka.address import KafkaAddress
from broker.rabbitmq.adapter import RabbitBroker
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.channel import Channel
from tests.kill.installation import Installation
from tests.servers import kafka_url, rabbitmq_url

TIMEOUT_S = 30.0


@asynccontextmanager
async def foreign_queue(installation: Installation, endpoint: str) -> AsyncIterator[None]:
    """Create an incompatible queue in place of an endpoint's queue, and delete it afterwards.

    On RabbitMQ it is a classic queue. On Kafka it is a topic whose name has underscores for our dots: Kafka refuses a
    second topic that differs only in these. There is none for the embedded broker.
    """
    name = installation.channels.requests(endpoint)
    if isinstance(installation.broker, RabbitBroker):
        wire = await AmqpConnection.open(RabbitAddress.of(rabbitmq_url()), "declares first")
        channel = await Channel.open(wire, "declaring", TIMEOUT_S)
        await channel.call("queue_declare", queue=name, durable=True)
        try:
            yield
        finally:
            await channel.call("queue_delete", queue=name)
            await wire.shut(TIMEOUT_S)
    elif isinstance(installation.broker, KafkaBroker):
        admin = AIOKafkaAdminClient(**KafkaAddress.of(kafka_url()).arguments)
        await admin.start()
        colliding = name.replace(".", "_")
        await admin.create_topics([NewTopic(colliding, 1, 1)])
        try:
            yield
        finally:
            await admin.delete_topics([colliding])
            await admin.close()
    else:
        yield
