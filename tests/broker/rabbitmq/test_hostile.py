"""A foreign client's message with any bytes is delivered once, can be settled, and never closes the connection."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from broker.base import Broker
from broker.messages import SAFE, Message
from broker.rabbitmq.address import RabbitAddress
from broker.rabbitmq.amqp_connection import AmqpConnection
from broker.rabbitmq.channel import Channel
from broker.rabbitmq.field_table import pack_short, pack_table
from broker.rabbitmq.frames import content_frames, publish_frame
from broker.rabbitmq.properties import UNREADABLE, unpack_message
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, nothing_comes, take

HEADERS = 1 << 13
CORRELATION_ID = 1 << 10
USER_ID = 1 << 4


def properties(flags: int, *fields: bytes) -> bytes:
    """Return handmade properties."""
    return struct.pack(">H", flags) + b"".join(fields)


def table(*fields: bytes) -> bytes:
    """Return a handmade table."""
    data = b"".join(fields)
    return struct.pack(">I", len(data)) + data


def nested(depth: int) -> bytes:
    """Return a table in a table in a table."""
    inner = table()
    for _ in range(depth):
        inner = table(b"\x01tF", inner)
    return inner


async def publish_raw(installation: Installation, queue: str, *contents: bytes) -> None:
    """Publish messages with handmade properties that no client library would write."""
    amqp = await AmqpConnection.open(RabbitAddress.of(installation.url), "hostile")
    channel = await Channel.open(amqp, "hostile", DEADLINE_S)
    start = publish_frame(channel.number, queue, mandatory=False)
    for each in contents:
        channel.send(start + content_frames(channel.number, each, b"hostile", amqp.frame_max))
    await channel.call("basic_qos", prefetch_count=1)
    await amqp.shut(DEADLINE_S)


HOSTILE = {
    "a correlation id that is not UTF-8": properties(CORRELATION_ID, b"\x04\xff\xfe\xfd\xfc"),
    "a header name and value that are not UTF-8": properties(HEADERS, table(b"\x02\xff\xfeS\0\0\0\x02\xfd\xfc")),
    "a time beyond the calendar": properties(HEADERS, table(b"\x01tT" + b"\x7f" + b"\xff" * 7)),
    "a time before it": properties(HEADERS, table(b"\x01tT" + b"\x80" + b"\0" * 7)),
    "tables without end": properties(HEADERS, nested(3000)),
    "our header as a number": properties(HEADERS, table(b"\x08millraceI\0\0\0\x05")),
    "our header as text": properties(HEADERS, table(b"\x08millraceS\0\0\0\x02\xff\xff")),
    "a count of deliveries": properties(HEADERS, table(b"\x10x-delivery-countl" + b"\x7f" + b"\xff" * 7)),
    "a count of deliveries in words": properties(HEADERS, table(b"\x10x-delivery-countS\0\0\0\x04many")),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_message_is_delivered_once_and_settled(
    name: str, installation: Installation, broker: Broker
) -> None:
    queue = await installation.queue(broker)
    consumer = broker.consume(queue, 10)
    await publish_raw(installation, queue, HOSTILE[name])
    await broker.publish([Message(queue=queue, body=b"good")])
    taken = await take(consumer, 2)
    assert bodies(taken) == [b"hostile", b"good"]
    assert [delivery.came_back for delivery in taken] == [0, 0]
    assert await broker.bury(taken[0], reason="invalid", attempts=1, error="hostile") == [SAFE]
    await broker.ack(taken)
    assert await nothing_comes(consumer)
    assert (await broker.depth(queue)).messages == 0


def test_text_that_is_not_utf8_survives_as_surrogates() -> None:
    message, _ = unpack_message("q", HOSTILE["a header name and value that are not UTF-8"], b"")
    assert dict(message.headers) == {"\udcff\udcfe": "\udcfd\udcfc"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x20",
        properties(HEADERS, b"\0\0\0\x10short"),
        properties(HEADERS, nested(3000)),
        properties(HEADERS, table(b"\x01?\x00")),
        properties(CORRELATION_ID, b"\xffabc"),
        properties(1),
    ],
)
def test_properties_that_cannot_be_read_leave_the_body_and_a_mark(data: bytes) -> None:
    message, came_back = unpack_message("q", data, b"body")
    assert (message.body, came_back, set(message.headers)) == (b"body", 0, {UNREADABLE})


async def test_headers_that_control_the_broker_are_not_forwarded(installation: Installation, broker: Broker) -> None:
    source, target, other = [await installation.queue(broker, name) for name in ("a", "b", "c")]
    steering: dict[str, Any] = {"CC": [other], "BCC": [other], "x-death": [{"queue": target}], "kept": 1}
    assert await broker.publish([Message(queue=source, body=b"x", headers=steering)]) == [SAFE]
    (taken,) = await take(broker.consume(source, 1))
    assert dict(taken.message.headers) == {"kept": 1}
    assert await nothing_comes(broker.consume(other, 1))


async def test_another_users_id_does_not_close_the_channel(installation: Installation, broker: Broker) -> None:
    queue = await installation.queue(broker)
    assert await broker.publish([Message(queue=queue, body=b"x", user_id="somebody")]) == [SAFE]
    (taken,) = await take(broker.consume(queue, 1))
    assert (taken.message.user_id, dict(taken.message.headers)) == (None, {"millrace-user-id": "somebody"})


async def test_a_number_that_the_broker_cannot_represent_is_sent_as_text(
    installation: Installation, broker: Broker
) -> None:
    queue = await installation.queue(broker)
    headers = {"nan": float("nan"), "inf": float("inf")}
    assert await broker.publish([Message(queue=queue, body=b"x", headers=headers)]) == [SAFE]
    (taken,) = await take(broker.consume(queue, 1))
    assert dict(taken.message.headers) == {"nan": "nan", "inf": "inf"}


async def test_a_header_longer_than_a_frame_is_too_large(installation: Installation, broker: Broker) -> None:
    queue = await installation.queue(broker)
    messages = [
        Message(queue=queue, body=b"x", headers={"long": "x" * 200_000}),
        Message(queue=queue, body=b"x", correlation_id="x" * 256),
        Message(queue=queue, body=b"x", headers={"big": 2**64}),
        Message(queue="x" * 256, body=b"x"),
        Message(queue=queue, body=b"good"),
    ]
    outcomes = await broker.publish(messages)
    assert [outcome.safe for outcome in outcomes] == [False, False, False, False, True]


def test_tables_within_tables_are_written_as_they_are_read() -> None:
    message, _ = unpack_message("q", properties(HEADERS, pack_table({"a": {"b": [1, 2.5, None]}})), b"")
    assert dict(message.headers) == {"a": {"b": [1, 2.5, None]}}
    assert pack_short("\udcff") == b"\x01\xff"
