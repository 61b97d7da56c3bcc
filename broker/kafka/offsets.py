"""The offsets of the records that topics hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from broker.kafka.clients import TIMEOUT_MS, KafkaClients


class KafkaOffsets:
    """Finds and trims records by their offsets; all methods raise Unreachable."""

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset after the last record of each partition."""
        return dict(await self._clients.ask(lambda: self._clients.probe.end_offsets(list(partitions))))

    async def beginnings(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset of the first record of each partition."""
        return dict(await self._clients.ask(lambda: self._clients.probe.beginning_offsets(list(partitions))))

    async def at_time(self, partition: TopicPartition, at_ms: int) -> int | None:
        """Return the first offset written at or after a time, in ms since 1970; None if there is none."""
        found = await self._clients.ask(lambda: self._clients.probe.offsets_for_times({partition: at_ms}))
        return None if found[partition] is None else int(found[partition].offset)

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete the records before these offsets."""
        await self._clients.ask(
            lambda: self._clients.admin.delete_records(
                {partition: RecordsToDelete(offset) for partition, offset in before.items()}, TIMEOUT_MS
            )
        )
