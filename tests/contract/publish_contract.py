"""The contract of publishing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from broker.base import MESSAGE_LIMIT_BYTES, Broker
from broker.channels import Limits
from broker.messages import FULL, NO_QUEUE, SAFE, TOO_LARGE, Depth, Message
from broker.protocol.header import BodyForm, pack_head
from tests.contract.installation import Installation
from tests.contract.steps import bodies, fill, take, until


class PublishContract:
    """Queues, up to the message that a consumer has taken."""

    async def test_a_message_arrives_with_all_of_its_properties(
        self, installation: Installation, broker: Broker
    ) -> None:
        sent = Message(
            queue=await installation.queue(broker),
            body=bytes(range(256)),
            header=pack_head(BodyForm.BUNDLE, 7, b"\x00\xff"),
            count=7,
            headers={"inference-header-content-length": 12, "status": "ok", "empty": ""},
            content_type="application/octet-stream",
            content_encoding="gzip",
            correlation_id="not utf-8: \udcff\udcfe",
            message_id="\u65e5\u672c\u8a9e \U0001f600",
            reply_to="client.queue",
            user_id=installation.user,
            timestamp_s=1_700_000_000,
            priority=3,
        )
        assert await broker.publish([sent]) == [SAFE]
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert taken.message == sent
        assert taken.came_back == 0
        await broker.ack([taken])

    async def test_a_channel_exists_after_a_declaration_and_not_after_a_question(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue, log = installation.channels.requests("a"), installation.channels.events("a")
        for _ in range(2):
            assert [await broker.exists(channel) for channel in (queue, log)] == [False, False]
        await installation.queue(broker)
        await installation.log(broker)
        assert [await broker.exists(channel) for channel in (queue, log)] == [True, True]

    async def test_a_plain_message_stays_plain(self, installation: Installation, broker: Broker) -> None:
        sent = Message(queue=await installation.queue(broker), body=b"")
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert taken.message == sent

    async def test_headers_of_unusual_types_arrive_unchanged(self, installation: Installation, broker: Broker) -> None:
        headers: dict[str, Any] = {
            "yes": True,
            "no": False,
            "nothing": None,
            "big": 2**62,
            "negative": -1,
            "real": 0.1,
            "bytes": b"\x00\xff",
            "list": [1, "two", [3.5]],
            "table": {"deep": {"deeper": "x"}},
            "\u00fc": "\udcff",
        }
        sent = Message(queue=await installation.queue(broker), body=b"x", headers=headers)
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert dict(taken.message.headers) == headers

    @pytest.mark.timeout(120)
    async def test_a_missing_queue_is_refused_and_its_neighbours_are_safe(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue, missing = await installation.queue(broker), installation.channels.requests("missing")
        messages = [Message(queue=name, body=b"x") for name in (queue, missing, queue, missing)]
        assert await broker.publish(messages) == [SAFE, NO_QUEUE, SAFE, NO_QUEUE]
        assert len(await take(broker.consume(queue, 10), 2)) == 2

    async def test_a_full_queue_refuses_rather_than_waits(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker, limits=Limits(messages=5))
        message = Message(queue=queue, body=b"x")
        async with asyncio.timeout(5):
            assert await fill(broker, message, most=50) == FULL

    async def test_a_queue_full_of_bytes_refuses(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker, limits=Limits(bytes=10_000))
        async with asyncio.timeout(5):
            assert await fill(broker, Message(queue=queue, body=b"x" * 1000), most=50) == FULL

    async def test_a_full_queue_accepts_messages_again_once_there_is_room(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker, limits=Limits(messages=5))
        message = Message(queue=queue, body=b"x")
        assert await fill(broker, message, most=50) == FULL
        await broker.ack(await take(broker.consume(queue, 100), 5))
        await until(lambda: fill(broker, message, most=1), SAFE)

    async def test_eight_mebibytes_arrive_and_one_byte_more_is_refused(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        body = b"0123456789abcdef" * (MESSAGE_LIMIT_BYTES // 16)
        messages = [Message(queue=queue, body=each) for each in (body, body + b"x", b"small")]
        assert await broker.publish(messages) == [SAFE, TOO_LARGE, SAFE]
        taken = await take(broker.consume(queue, 10), 2)
        assert {delivery.message.body == body for delivery in taken} == {True, False}

    async def test_a_delayed_message_is_delivered_after_its_delay(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        consumer = broker.consume(queue, 10)
        began_s = time.monotonic()
        delayed = Message(queue=queue, body=b"later", delay_s=0.15, message_id="id", headers={"a": 1})
        assert await broker.publish([delayed, Message(queue=queue, body=b"now")]) == [SAFE, SAFE]
        assert bodies(await take(consumer)) == [b"now"]
        (later,) = await take(consumer)
        assert time.monotonic() - began_s >= 0.15
        assert (later.message.body, later.message.message_id, dict(later.message.headers)) == (b"later", "id", {"a": 1})
        assert (later.message.queue, later.came_back) == (queue, 0)

    async def test_a_message_may_be_delayed_again_and_again(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        consumer = broker.consume(queue, 10)
        message = Message(queue=queue, body=b"x", delay_s=0.1)
        began_s = time.monotonic()
        await broker.publish([message])
        for _ in range(3):
            taken = await take(consumer)
            assert await broker.forward(taken, [message]) == [SAFE]
        assert time.monotonic() - began_s >= 3 * message.delay_s

    async def test_depth_counts_requests_and_not_messages(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        assert (await broker.depth(queue)).messages == 0
        bundle = Message(queue=queue, body=b"x", header=pack_head(BodyForm.BUNDLE, 32), count=32)
        await broker.publish([bundle] * 10)
        await until(lambda: broker.depth(queue), Depth(10, 320))

    async def test_a_missing_queue_has_no_depth(self, installation: Installation, broker: Broker) -> None:
        depth = await broker.depth(installation.channels.requests("missing"))
        assert (depth.messages, depth.requests) == (0, 0)

    async def test_declaring_twice_changes_nothing(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker, limits=Limits(messages=1000))
        await broker.publish([Message(queue=queue, body=b"x")])
        await broker.declare(queue, Limits(messages=1000))
        await (await installation.broker()).declare(queue, Limits(messages=1000))
        assert bodies(await take(broker.consume(queue, 10))) == [b"x"]

    async def test_a_deleted_queue_no_longer_exists(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.delete(queue)
        await broker.delete(queue)
        assert await broker.publish([Message(queue=queue, body=b"x")]) == [NO_QUEUE]

    async def test_a_full_output_queue_drops_its_oldest(self, installation: Installation, broker: Broker) -> None:
        results = installation.channels.results("a")
        await broker.declare(results, Limits(messages=3))
        messages = [Message(queue=results, body=b"%d" % at) for at in range(6)]
        assert await broker.publish(messages) == [SAFE] * 6
        assert bodies(await take(broker.consume(results, 10), 3)) == [b"3", b"4", b"5"]
        await broker.delete(results)

    async def test_publishing_nothing_is_fine(self, broker: Broker) -> None:
        assert await broker.publish([]) == []
