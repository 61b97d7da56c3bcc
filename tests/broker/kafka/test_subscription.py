"""A subscription delivers all records that Kafka sends, at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition

from broker.kafka.adapter import KafkaBroker
from broker.kafka.offset_tracker import CommittedState
from broker.messages import SAFE, Message
from tests.contract.installation import Installation
from tests.contract.steps import take
from tests.servers import kafka_url

SLOWLY_S = 1.0


async def test_records_that_are_fetched_before_the_committed_state_is_known_are_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        assert isinstance(broker, KafkaBroker)
        queue = await installation.queue(broker)
        assert await broker.publish([Message(queue=queue, body=b"x")]) == [SAFE]
        committed = broker.cluster.groups.committed

        async def slowly(group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, CommittedState]:
            await asyncio.sleep(SLOWLY_S)
            return await committed(group, partitions)

        monkeypatch.setattr(broker.cluster.groups, "committed", slowly)
        (delivery,) = await take(broker.consume(queue, 10))
        assert (delivery.message.body, delivery.came_back) == (b"x", 0)
        await broker.ack([delivery])
