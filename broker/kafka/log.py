"""Reads logs: topics with one partition."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from broker.base import Reader, Since
from broker.errors import Gap
from broker.kafka.cluster import KafkaCluster
from broker.kafka.properties import given, unpack_plain
from broker.kafka.records import UnreadableRecord
from broker.messages import NO_HEADERS, Record
from broker.support.upkeep import Upkeep

logger = logging.getLogger(__name__)
POLL_MS = 100
RETRY_S = 0.2
CLOSE_S = 5.0
_FETCH_BYTES = 9 * 1024 * 1024


class KafkaReader(Reader):
    """Reads records in order and raises `Gap` where some are gone. Waits for a log that does not exist yet."""

    def __init__(
        self,
        cluster: KafkaCluster,
        upkeep: Upkeep,
        log: str,
        start: int | Since,
        on_closed: Callable[[KafkaReader], None],
    ) -> None:
        self._cluster = cluster
        self._upkeep = upkeep
        self._log = log
        self._start = start
        self._partition = TopicPartition(log, 0)
        self._consumer: Any = None
        self._polling: asyncio.Task[list[Record]] | None = None
        self._on_closed = on_closed
        self._closed = False

    async def read(self, limit: int) -> list[Record]:
        while not self._closed:
            if self._polling is None:
                self._polling = asyncio.create_task(self._poll(limit), name=f"reading {self._log}")
            # A poll of aiokafka must not be cancelled: after a cancelled read, the next read gets its records.
            polling = self._polling
            try:
                records = await asyncio.shield(polling)
            finally:
                if polling.done():
                    self._polling = None
            if records:
                return records
        return []

    async def close(self) -> None:
        self._closed = True
        polling = self._polling  # a concurrent `read` sets it to None as soon as it is done
        if polling is not None:
            await asyncio.wait((polling,), timeout=CLOSE_S)
            if polling.done() and not polling.cancelled():
                polling.exception()
        await self._stop_consumer()
        self._on_closed(self)

    async def _poll(self, limit: int) -> list[Record]:
        try:
            if self._consumer is None and not await self._begin():
                await asyncio.sleep(RETRY_S)
                return []
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=limit)
        except OffsetOutOfRangeError:
            return await self._raise_gap()
        except (KafkaError, OSError):
            await self._stop_consumer()
            await asyncio.sleep(RETRY_S)
            return []
        found = fetched.get(self._partition, [])
        if found:
            self._start = found[-1].offset + 1
        return [_record(record) for record in found if not self._is_skipped(record)]

    def _is_skipped(self, record: Any) -> bool:
        if not isinstance(record.value, UnreadableRecord):
            return False
        logger.warning(
            "%s: skipped the record at offset %d, which cannot be read: %s",
            self._log,
            record.offset,
            record.value.reason,
        )
        return True

    async def _begin(self) -> bool:
        if await self._cluster.topology.partitions(self._log) is None:
            self._upkeep.suspect([self._log])
            return False
        if isinstance(self._start, Since):
            found = await self._cluster.offsets.at_time(self._partition, self._start.at_us // 1000)
            self._start = (
                (await self._cluster.offsets.ends([self._partition]))[self._partition] if found is None else found
            )
        first = await self._beginning()
        if self._start < first:
            await self._raise_gap(first)
        await self._check_end(self._start)
        consumer = AIOKafkaConsumer(
            **self._cluster.address.arguments,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=POLL_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        self._consumer = consumer
        await consumer.start()
        consumer.assign([self._partition])
        consumer.seek(self._partition, self._start)
        return True

    async def _check_end(self, start: int) -> None:
        """Raise `Gap` if the log ends before the next expected record: it was deleted and made again."""
        if await self._end() < start:
            self._start = 0
            raise Gap(self._log, start, 0)

    async def _raise_gap(self, first: int | None = None) -> list[Record]:
        """Raise `Gap` if records are gone or the log was made again; otherwise return no records after a pause."""
        await self._stop_consumer()
        expected = self._start if isinstance(self._start, int) else 0
        if first is None:
            first = await self._beginning()
        if first > expected:
            self._start = first
            raise Gap(self._log, expected, first)
        await self._check_end(expected)
        await asyncio.sleep(RETRY_S)
        return []

    async def _beginning(self) -> int:
        return (await self._cluster.offsets.beginnings([self._partition]))[self._partition]

    async def _end(self) -> int:
        return (await self._cluster.offsets.ends([self._partition]))[self._partition]

    async def _stop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(CLOSE_S):
                    await consumer.stop()


def _record(record: Any) -> Record:
    raw = given(record.headers)
    return Record(record.offset, record.value or b"", unpack_plain(raw) if raw else NO_HEADERS)
