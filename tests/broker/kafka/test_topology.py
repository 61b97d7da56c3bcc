"""Topics: which are remembered, which are deleted with their process, and which are refused."""

from __future__ import annotations

import pytest

from broker.errors import Refused
from broker.kafka.adapter import KafkaBroker
from broker.kafka.clients import KafkaClients
from broker.kafka.topology import KafkaTopology
from broker.messages import SAFE, Message
from tests.contract.installation import Installation
from tests.servers import kafka_url

LIMIT = 3


async def test_the_answer_queue_of_a_process_is_deleted_with_it() -> None:
    async with Installation(kafka_url(), user=None) as installation:
        gateway, other = await installation.broker(), await installation.broker()
        assert isinstance(other, KafkaBroker)
        queue, stored = installation.channels.answers("g1"), await installation.queue(other)
        await gateway.declare(queue)
        await gateway.declare(stored)
        gateway.consume(queue, 10)
        assert await other.publish([Message(queue=queue, body=b"x"), Message(queue=stored, body=b"x")]) == [SAFE, SAFE]
        await gateway.close()
        other.cluster.topology.forget(queue)
        assert await other.cluster.topology.partitions(queue) is None
        assert await other.cluster.topology.partitions(stored, fresh=True) is not None


async def test_no_more_topics_are_remembered_than_the_limit() -> None:
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        assert isinstance(broker, KafkaBroker)
        clients = KafkaClients(broker.cluster.address)
        await clients.open()
        try:
            topology = KafkaTopology(clients, installation.channels, 1, known_limit=LIMIT)
            for number in range(3 * LIMIT):
                assert await topology.partitions(f"{installation.channels.prefix}made-up-{number}") is None
            assert len(topology._known) == LIMIT  # noqa: SLF001 - no public method shows the remembered topics
        finally:
            await clients.close()


async def test_a_log_whose_topic_has_several_partitions_loses_no_record() -> None:
    """Only the first partition of a log is read."""
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        assert isinstance(broker, KafkaBroker)
        log = installation.channels.events("e")
        await broker.cluster.topology.create(log, 3, {})
        await broker.declare(log)
        for at in range(6):
            assert await broker.append(log, [b"%d" % at]) == [SAFE]
        reader, found = broker.read(log, 0), list[bytes]()
        while len(found) < 6:
            found += [bytes(record.body) for record in await reader.read(10)]
        await reader.close()
        assert found == [b"%d" % at for at in range(6)]
        await broker.delete(log)


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_topic_is_refused_as_a_channel(policy: str) -> None:
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        assert isinstance(broker, KafkaBroker)
        queue = installation.channels.requests("e")
        await broker.cluster.topology.create(queue, 1, {"cleanup.policy": policy})
        with pytest.raises(Refused, match=f"{queue}.*cleanup.policy={policy}"):
            await broker.declare(queue)
        await broker.delete(queue)
