"""Messages of other clients in a queue or a log are read as far as possible, and block no partition."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode
from hypothesis import given
from hypothesis import strategies as st

from broker.kafka.address import KafkaAddress
from broker.kafka.properties import pack_headers
from broker.kafka.records import RecordReader, UnreadableRecord
from broker.messages import SAFE, Depth, Message
from broker.protocol.dead_letters import read_dead_letter
from tests.broker.kafka.foreign import batch, named_header, record, write
from tests.contract.installation import Installation
from tests.contract.steps import bodies, nothing_comes, read, take, until
from tests.servers import kafka_url

BODY = b"all alike " * 300
LZ4_HEAD = bytes.fromhex("04224d187440bd")  # its flags announce a checksum of the contents at the end
Codec = Callable[[list[bytes]], tuple[int, bytes]]
CODECS = [
    pytest.param(lambda records: (0, b"".join(records)), id="plain"),
    pytest.param(lambda records: (1, gzip.compress(b"".join(records))), id="gzip"),
]


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with Installation(kafka_url(), user=None) as installation:
        yield installation


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_a_compressed_message_is_taken(installation: Installation, codec: str) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    async with AIOKafkaProducer(**KafkaAddress.of(kafka_url()).arguments, compression_type=codec) as producer:
        await producer.send_and_wait(queue, BODY)
    taken = await take(broker.consume(queue, 10))
    assert bodies(taken) == [BODY]
    await broker.ack(taken)


async def test_messages_of_aborted_and_open_transactions_are_not_delivered(installation: Installation) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    arguments = {**KafkaAddress.of(kafka_url()).arguments, "transactional_id": uuid4().hex}
    async with AIOKafkaProducer(**arguments) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(queue, b"taken back", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(queue, b"committed", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(queue, b"still open", partition=0)
        consumer = broker.consume(queue, 10)
        taken = await take(consumer)
        assert bodies(taken) == [b"committed"]
        await broker.ack(taken)
        assert await nothing_comes(consumer)
        await producer.commit_transaction()
    assert bodies(await take(consumer)) == [b"still open"]


async def test_cloud_events_are_read_and_written_in_kafkas_binding(installation: Installation) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    headers = [("ce_id", b"order 7"), ("ce_specversion", b"1.0"), ("timeout_ms", None), ("key", b"")]
    async with AIOKafkaProducer(**KafkaAddress.of(kafka_url()).arguments) as producer:
        await producer.send_and_wait(queue, BODY, headers=headers)
    [delivery] = await take(broker.consume(queue, 10))
    assert dict(delivery.message.headers) == {"cloudEvents_id": "order 7", "cloudEvents_specversion": "1.0", "key": ""}
    packed = dict(pack_headers(delivery.message))
    assert (packed["ce_id"], packed["ce_specversion"]) == (b"order 7", b"1.0")
    await broker.ack([delivery])


async def test_a_log_keeps_the_attributes_of_its_records(installation: Installation) -> None:
    broker = await installation.broker()
    log = await installation.log(broker)
    await broker.append(log, [b"{}"], {"cloudEvents_type": "millrace.tick.v1", "n": 7})
    [found] = await read(broker.read(log, 0), 1)
    assert dict(found.headers) == {"cloudEvents_type": "millrace.tick.v1", "n": 7}


@pytest.mark.parametrize("codec", CODECS)
async def test_a_header_name_that_is_not_text_is_read_as_far_as_possible(
    installation: Installation, codec: Codec
) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    records = [record(0, b"a"), record(1, b"b", named_header(b"h\xff\xfe", b"x")), record(2, b"c")]
    await write(queue, batch(records, *codec(records)))
    taken = await take(broker.consume(queue, 10), 3)
    assert bodies(taken) == [b"a", b"b", b"c"]
    assert dict(taken[1].message.headers) == {r"h\xff\xfe": "x"}
    await broker.ack(taken)
    await until(lambda: broker.depth(queue), Depth(0, 0))


@pytest.mark.parametrize("prefetch", [1, 10])
async def test_a_record_that_cannot_be_read_is_buried_and_its_neighbours_are_taken(
    installation: Installation, prefetch: int
) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    await write_around(queue, broken_batch())
    consumer = broker.consume(queue, prefetch)
    for body in (b"a", b"c"):
        taken = await take(consumer, 1)
        assert bodies(taken) == [body]
        await broker.ack(taken)
    await until(lambda: broker.depth(queue), Depth(0, 0))
    (buried,) = await take(broker.consume(installation.channels.dead(queue), 10))
    letter = read_dead_letter(buried.message, installation.channels)
    assert (letter.reason, letter.origin) == ("unreadable", queue)
    assert letter.error.startswith(f"{queue}, partition 0, offset 1: DecompressionError: ")
    assert buried.message.body[16:] == broken_batch()[16:]  # without the fields that Kafka sets
    await broker.ack([buried])


async def test_a_log_is_read_past_an_unreadable_record(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await installation.broker()
    log = await installation.log(broker)
    await write_around(log, broken_batch())
    records = await read(broker.read(log, 0), 2)
    assert [(each.offset, each.body) for each in records] == [(0, b"a"), (2, b"c")]
    assert f"{log}: skipped the record at offset 1, which cannot be read" in caplog.text


async def test_a_delayed_message_is_moved_past_a_record_that_cannot_be_read(installation: Installation) -> None:
    broker = await installation.broker()
    queue = await installation.queue(broker)
    topic = f"{installation.channels.prefix}delay.200"
    await broker.declare(topic)
    await write(topic, broken_batch())
    assert await broker.publish([Message(queue=queue, body=b"later", delay_s=0.1)]) == [SAFE]
    taken = await take(broker.consume(queue, 10))
    assert bodies(taken) == [b"later"]
    await broker.ack(taken)
    (buried,) = await take(broker.consume(installation.channels.dead(topic), 1))
    assert buried.message.headers["millrace-dead-reason"] == "unreadable"
    await broker.ack([buried])
    await broker.delete(installation.channels.dead(topic))


def test_an_unreadable_record_does_not_affect_the_rest_of_its_batch() -> None:
    records = [record(0, b"a"), record(1, b"broken", b"\x02\x7eh"), record(2, b"c")]
    found = read_batch(batch(records, 1, gzip.compress(b"".join(records))))
    assert [each.offset for each in found] == [0, 1, 2]
    assert [each.value for each in found] == [b"a", records[1], b"c"]
    assert [isinstance(each.value, UnreadableRecord) for each in found] == [False, True, False]
    assert found[1].value.reason == "ValueError: a part of 63 bytes where 1 are left"


def test_if_the_begin_of_the_next_record_is_unknown_the_rest_of_the_batch_is_one_record() -> None:
    records = [record(0, b"a"), b"\x7e", record(2, b"c")]
    found = read_batch(batch(records))
    assert [(each.offset, each.value) for each in found] == [(0, b"a"), (2, b"".join(records[1:]))]


def test_a_batch_with_a_wrong_checksum_is_one_unreadable_record() -> None:
    data = bytearray(batch([record(0, b"a"), record(1, b"b")]))
    data[-3] ^= 1
    (found,) = read_batch(bytes(data))
    assert (found.offset, found.value, found.value.reason) == (1, bytes(data), "its checksum is wrong")


@given(st.binary(max_size=60), st.integers(0, 7), st.integers(1, 4))
def test_reading_a_batch_with_any_content_ends(noise: bytes, codec: int, number: int) -> None:
    data = batch([record(at, b"x") for at in range(number)], codec, noise)
    offsets = [each.offset for each in read_batch(data)]
    assert offsets == sorted(set(offsets))
    assert all(0 <= offset < number for offset in offsets)


async def write_around(topic: str, broken: bytes) -> None:
    """Write a readable record, an unreadable one, and another readable one."""
    for data in (batch([record(0, b"a")]), broken, batch([record(0, b"c")])):
        await write(topic, data)


def broken_batch() -> bytes:
    """Return a batch that Kafka accepts but no client can read: Kafka ignores the checksum of lz4's contents."""
    records = [record(0, b"broken")]
    blocks = lz4_encode(b"".join(records))[len(LZ4_HEAD) :]
    return batch(records, 3, LZ4_HEAD + blocks + b"none")


def read_batch(data: bytes) -> list[Any]:
    found = RecordReader(data).next_batch()
    assert found.validate_crc()
    return list(found)
