"""The Kafka cluster of one URL: its topics, groups and offsets."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition

from broker.channels import Channels
from broker.kafka.address import KafkaAddress
from broker.kafka.clients import KafkaClients
from broker.kafka.groups import KafkaGroups
from broker.kafka.offsets import KafkaOffsets
from broker.kafka.topology import KafkaTopology


class KafkaCluster:
    """One connection for all questions about the cluster."""

    def __init__(self, address: KafkaAddress, channels: Channels) -> None:
        self.address = address
        self._clients = KafkaClients(address)
        self.topology = KafkaTopology(self._clients, channels, address.partitions)
        self.groups = KafkaGroups(self._clients)
        self.offsets = KafkaOffsets(self._clients)

    async def open(self) -> None:
        """Connect to a broker; raises Unreachable."""
        await self._clients.open()

    async def close(self) -> None:
        """Close the connection."""
        await self._clients.close()

    async def ping(self) -> None:
        """Return when a broker has answered; raises Unreachable."""
        await self._clients.ask(lambda: self._clients.admin.describe_cluster())

    async def unsettled(self, queue: str) -> int:
        """Return the number of messages of a queue that are not settled: waiting ones and held ones."""
        number = await self.topology.partitions(queue)
        if not number:
            return 0
        partitions = [TopicPartition(queue, at) for at in range(number)]
        states, ends, beginnings = await asyncio.gather(
            self.groups.committed(queue, partitions), self.offsets.ends(partitions), self.offsets.beginnings(partitions)
        )
        return sum(
            ends[partition] - max(states[partition].offset, beginnings[partition]) - states[partition].done.bit_count()
            for partition in partitions
        )
