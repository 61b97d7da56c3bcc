"""Writes bytes to a topic that no client library would: batches of Kafka's format 2."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from broker.kafka.address import KafkaAddress
from tests.contract.installation import DEADLINE_S
from tests.servers import kafka_url

NO_LEADER = 6
AT_MS = 1_700_000_000_000
FRAME = struct.Struct(">qiib")  # base offset, length, leader's epoch, format
FIELDS = struct.Struct(">hiqqqhii")  # from the attributes on, where the checksum begins


def record(at: int, body: bytes, headers: bytes = b"\0") -> bytes:
    """Return a record; `headers` are their number and all headers, as bytes."""
    inside = b"\0\0" + _varint(at) + _varint(-1) + _sized(body) + headers
    return _sized(inside)


def named_header(name: bytes, value: bytes) -> bytes:
    """Return one header in the form that `record` takes."""
    return _varint(1) + _sized(name) + _sized(value)


def batch(records: Sequence[bytes], codec: int = 0, encoded: bytes | None = None) -> bytes:
    """Return a batch of records; `encoded` is its compressed body, in place of `records`."""
    body = b"".join(records) if encoded is None else encoded
    covered = FIELDS.pack(codec, len(records) - 1, AT_MS, AT_MS, -1, -1, -1, len(records)) + body
    crc = calc_crc32c(covered)
    length = FRAME.size - 12 + 4 + len(covered)
    return FRAME.pack(0, length, -1, 2) + struct.pack(">I", crc) + covered


async def write(topic: str, data: bytes) -> None:
    """Append a batch to the first partition of a topic."""
    client = AIOKafkaClient(**KafkaAddress.of(kafka_url()).arguments)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        (node,) = [broker.nodeId for broker in client.cluster.brokers()]
        request = ProduceRequest(transactional_id=None, required_acks=-1, timeout=10_000, topics=[(topic, [(0, data)])])
        async with asyncio.timeout(DEADLINE_S):
            while code := (await client.send(node, request)).topics[0][1][0][1]:
                assert code == NO_LEADER, f"Kafka does not take this batch: error {code}"
                await asyncio.sleep(0.1)
    finally:
        await client.close()


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    found = bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(found) + bytes([rest])
