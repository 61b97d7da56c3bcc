"""What other clients write to a queue or a log is taken as far as it can be read, and blocks nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer

from broker.kafka.address import Address
from tests.contract.installation import Installation
from tests.contract.steps import bodies, take
from tests.servers import kafka_url

BODY = b"all alike " * 300


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with Installation(kafka_url(), user=None) as installation:
        yield installation


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_a_compressed_message_is_taken(installation: Installation, codec: str) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    async with AIOKafkaProducer(**Address.of(kafka_url()).arguments, compression_type=codec) as producer:
        await producer.send_and_wait(queue, BODY)
    taken = await take(broker.consume(queue, 10))
    assert bodies(taken) == [BODY]
    await broker.ack(taken)
