"""What every broker promises: each adapter inherits this class and passes all of it, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from broker.base import MESSAGE_LIMIT_BYTES, Broker, Consumer, Limits, Reader, Since
from broker.errors import Gap
from broker.header import Form, pack_head
from broker.ids import now_us
from broker.messages import FULL, NO_QUEUE, SAFE, TOO_LARGE, Delivery, Message, Outcome, Record
from tests.contract.site import DEADLINE_S, Site


async def take(consumer: Consumer, number: int = 1) -> list[Delivery]:
    """Take exactly `number` messages."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < number:
            taken += await consumer.take(number - len(taken))
    return taken


async def read(reader: Reader, number: int) -> list[Record]:
    """Read exactly `number` records."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < number:
            records += await reader.read(number - len(records))
    return records


def bodies(things: Sequence[Record] | Sequence[Delivery]) -> list[bytes]:
    """Return the bodies of records or deliveries."""
    return [thing.body if isinstance(thing, Record) else thing.message.body for thing in things]


async def nothing_comes(consumer: Consumer, for_s: float = 0.3) -> bool:
    """Tell whether a consumer gets nothing for a while."""
    try:
        async with asyncio.timeout(for_s):
            await consumer.take(1)
    except TimeoutError:
        return True
    return False


async def fill(broker: Broker, message: Message, most: int) -> Outcome:
    """Publish one by one until the broker refuses."""
    for _ in range(most):
        (outcome,) = await broker.publish([message])
        if not outcome.safe:
            return outcome
    return SAFE


class QueueContract:
    """Queues: settled once, by competing consumers."""

    async def test_a_message_arrives_with_all_that_it_carries(self, site: Site, broker: Broker) -> None:
        sent = Message(
            queue=await site.queue(broker),
            body=bytes(range(256)),
            header=pack_head(Form.BUNDLE, 7, b"\x00\xff"),
            count=7,
            headers={"inference-header-content-length": 12, "status": "ok", "empty": ""},
            content_type="application/octet-stream",
            correlation_id="not utf-8: \udcff\udcfe",
            message_id="\u65e5\u672c\u8a9e \U0001f600",
            reply_to="client.queue",
            user_id=site.user,
            timestamp_s=1_700_000_000,
            priority=3,
        )
        assert await broker.publish([sent]) == [SAFE]
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert taken.message == sent
        assert taken.came_back == 0
        await broker.ack([taken])

    async def test_a_plain_message_stays_plain(self, site: Site, broker: Broker) -> None:
        sent = Message(queue=await site.queue(broker), body=b"")
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert taken.message == sent

    async def test_headers_of_odd_types_arrive_as_they_were(self, site: Site, broker: Broker) -> None:
        headers: dict[str, Any] = {
            "yes": True, "no": False, "nothing": None, "big": 2**62, "negative": -1, "real": 0.1, "bytes": b"\x00\xff",
            "list": [1, "two", [3.5]], "table": {"deep": {"deeper": "x"}}, "\u00fc": "\udcff",
        }  # fmt: skip
        sent = Message(queue=await site.queue(broker), body=b"x", headers=headers)
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert dict(taken.message.headers) == headers

    @pytest.mark.timeout(120)
    async def test_two_consumers_get_ten_thousand_messages_once_each(self, site: Site, broker: Broker) -> None:
        queue, number = await site.queue(broker), 10_000
        got: list[bytes] = []

        async def work(own: Broker) -> None:
            consumer = own.consume(queue, 500)
            while len(got) < number:
                deliveries = await consumer.take(200)
                got.extend(bodies(deliveries))
                await own.ack(deliveries)

        workers = [asyncio.create_task(work(await site.broker())) for _ in range(2)]
        messages = [Message(queue=queue, body=b"%d" % at) for at in range(number)]
        for at in range(0, number, 1000):
            assert set(await broker.publish(messages[at : at + 1000])) == {SAFE}
        async with asyncio.timeout(60):
            await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert sorted(got, key=int) == [message.body for message in messages]

    async def test_a_dead_process_gives_back_what_it_held(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(5)])
        child = site.child(queue, 5)
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "held\n"
        child.kill()
        taken = await take(broker.consume(queue, 10), 5)
        assert sorted(bodies(taken)) == [b"0", b"1", b"2", b"3", b"4"]
        assert all(delivery.came_back > 0 for delivery in taken)

    async def test_a_closed_broker_gives_back_what_it_held(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"x")])
        other = await site.broker()
        await take(other.consume(queue, 10))
        await other.close()
        (taken,) = await take(broker.consume(queue, 10))
        assert taken.came_back > 0

    async def test_a_requeued_message_comes_back(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"x")])
        consumer = broker.consume(queue, 10)
        await broker.requeue(await take(consumer))
        (taken,) = await take(consumer)
        assert (taken.message.body, taken.came_back) == (b"x", 1)

    async def test_an_acked_message_is_gone(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        other = await site.broker()
        taken = await take(other.consume(queue, 10), 10)
        await other.ack(taken[5:8])
        await other.ack(taken[:3])
        await other.close()
        left = await take(broker.consume(queue, 10), 4)
        assert sorted(bodies(left)) == sorted(bodies(taken[3:5] + taken[8:]))

    async def test_settling_twice_is_harmless(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"first"), Message(queue=queue, body=b"second")])
        consumer = broker.consume(queue, 1)
        first = await take(consumer)
        await broker.ack(first)
        await broker.ack(first)
        assert bodies(await take(consumer)) == [b"second"]

    async def test_no_more_than_the_prefetch_is_held(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 3)
        await take(consumer, 3)
        assert await nothing_comes(consumer)
        assert len(await take(broker.consume(queue, 10), 7)) == 7

    async def test_a_resized_consumer_holds_more(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 1)
        await take(consumer)
        consumer.resize(10)
        assert len(await take(consumer, 9)) == 9

    async def test_forward_acks_once_its_messages_are_safe(self, site: Site, broker: Broker) -> None:
        source, target = await site.queue(broker, "a"), await site.queue(broker, "b")
        await broker.publish([Message(queue=source, body=b"x")])
        other = await site.broker()
        taken = await take(other.consume(source, 10))
        assert await other.forward(taken, [Message(queue=target, body=b"y")]) == [SAFE]
        await other.close()
        assert bodies(await take(broker.consume(target, 10))) == [b"y"]
        assert await nothing_comes(broker.consume(source, 10))

    async def test_forward_acks_nothing_when_a_message_is_refused(self, site: Site, broker: Broker) -> None:
        source = await site.queue(broker)
        await broker.publish([Message(queue=source, body=b"x")])
        other = await site.broker()
        taken = await take(other.consume(source, 10))
        missing = Message(queue=site.channels.requests("missing"), body=b"y")
        assert await other.forward(taken, [missing]) == [NO_QUEUE]
        await other.close()
        assert bodies(await take(broker.consume(source, 10))) == [b"x"]

    async def test_a_missing_queue_is_refused_and_its_neighbours_are_safe(self, site: Site, broker: Broker) -> None:
        queue, missing = await site.queue(broker), site.channels.requests("missing")
        messages = [Message(queue=name, body=b"x") for name in (queue, missing, queue, missing)]
        assert await broker.publish(messages) == [SAFE, NO_QUEUE, SAFE, NO_QUEUE]
        assert len(await take(broker.consume(queue, 10), 2)) == 2

    async def test_a_full_queue_refuses_rather_than_waits(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker, limits=Limits(messages=5))
        message = Message(queue=queue, body=b"x")
        async with asyncio.timeout(5):
            assert await fill(broker, message, most=50) == FULL

    async def test_a_queue_full_of_bytes_refuses(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker, limits=Limits(bytes=10_000))
        async with asyncio.timeout(5):
            assert await fill(broker, Message(queue=queue, body=b"x" * 1000), most=50) == FULL

    async def test_a_full_queue_takes_again_once_there_is_room(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker, limits=Limits(messages=5))
        message = Message(queue=queue, body=b"x")
        await fill(broker, message, most=50)
        await broker.ack(await take(broker.consume(queue, 100), 5))
        async with asyncio.timeout(DEADLINE_S):
            while await broker.publish([message]) != [SAFE]:
                await asyncio.sleep(0.01)

    async def test_eight_mebibytes_arrive_and_one_byte_more_is_refused(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        body = b"0123456789abcdef" * (MESSAGE_LIMIT_BYTES // 16)
        messages = [Message(queue=queue, body=each) for each in (body, body + b"x", b"small")]
        assert await broker.publish(messages) == [SAFE, TOO_LARGE, SAFE]
        taken = await take(broker.consume(queue, 10), 2)
        assert {delivery.message.body == body for delivery in taken} == {True, False}

    async def test_a_delayed_message_is_held_back_and_then_delivered(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        consumer = broker.consume(queue, 10)
        began_s = time.monotonic()
        delayed = Message(queue=queue, body=b"later", delay_s=0.15, message_id="id", headers={"a": 1})
        assert await broker.publish([delayed, Message(queue=queue, body=b"now")]) == [SAFE, SAFE]
        assert bodies(await take(consumer)) == [b"now"]
        (later,) = await take(consumer)
        assert time.monotonic() - began_s >= 0.15
        assert (later.message.body, later.message.message_id, dict(later.message.headers)) == (b"later", "id", {"a": 1})
        assert (later.message.queue, later.came_back) == (queue, 0)

    async def test_a_message_may_be_delayed_again_and_again(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        consumer = broker.consume(queue, 10)
        message = Message(queue=queue, body=b"x", delay_s=0.1)
        await broker.publish([message])
        for _ in range(3):
            taken = await take(consumer)
            assert await broker.forward(taken, [message]) == [SAFE]

    async def test_a_buried_message_keeps_its_bytes_and_says_why(self, site: Site, broker: Broker) -> None:
        sent = Message(
            queue=await site.queue(broker), body=b"\x00bad", header=pack_head(Form.SINGLE, 1), headers={"own": "header"},
            correlation_id="c", reply_to="r",
        )  # fmt: skip
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert await broker.bury(taken, reason="failed", attempts=3, error="it broke") == [SAFE]
        (buried,) = await take(broker.consume(site.channels.dead(sent.queue), 10))
        message = buried.message
        assert (message.body, message.header, message.correlation_id, message.reply_to) == (
            b"\x00bad",
            sent.header,
            "c",
            "r",
        )
        why = dict(message.headers)
        assert abs(why.pop("millrace-dead-at-us") - now_us()) < 60_000_000
        assert why == {
            "own": "header", "millrace-dead-queue": sent.queue, "millrace-dead-reason": "failed",
            "millrace-dead-attempts": 3, "millrace-dead-error": "it broke",
        }  # fmt: skip

    async def test_depth_counts_requests_and_not_messages(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        assert (await broker.depth(queue)).messages == 0
        bundle = Message(queue=queue, body=b"x", header=pack_head(Form.BUNDLE, 32), count=32)
        await broker.publish([bundle] * 10)
        async with asyncio.timeout(DEADLINE_S):
            while (depth := await broker.depth(queue)).messages < 10:
                await asyncio.sleep(0.05)
        assert (depth.messages, depth.requests) == (10, 320)

    async def test_a_missing_queue_has_no_depth(self, site: Site, broker: Broker) -> None:
        depth = await broker.depth(site.channels.requests("missing"))
        assert (depth.messages, depth.requests) == (0, 0)

    async def test_declaring_twice_changes_nothing(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker, limits=Limits(messages=1000))
        await broker.publish([Message(queue=queue, body=b"x")])
        await broker.declare(queue, Limits(messages=1000))
        await (await site.broker()).declare(queue, Limits(messages=1000))
        assert bodies(await take(broker.consume(queue, 10))) == [b"x"]

    async def test_a_stopped_consumer_drains(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 10)
        taken = await take(consumer)
        await consumer.stop()
        async with asyncio.timeout(DEADLINE_S):
            while more := await consumer.take(3):
                taken += more
        await broker.ack(taken)
        left = 10 - len(taken)
        assert sorted(bodies(await take(broker.consume(queue, 10), left)) + bodies(taken)) == [
            b"%d" % at for at in range(10)
        ]

    async def test_stopping_wakes_a_take_that_waits(self, site: Site, broker: Broker) -> None:
        consumer = broker.consume(await site.queue(broker), 10)
        waiting = asyncio.create_task(consumer.take(1))
        await asyncio.sleep(0)
        await consumer.stop()
        assert await asyncio.wait_for(waiting, DEADLINE_S) == []

    async def test_a_deleted_queue_is_no_longer_there(self, site: Site, broker: Broker) -> None:
        queue = await site.queue(broker)
        await broker.delete(queue)
        await broker.delete(queue)
        assert await broker.publish([Message(queue=queue, body=b"x")]) == [NO_QUEUE]

    async def test_a_full_output_queue_drops_its_oldest(self, site: Site, broker: Broker) -> None:
        results = site.channels.results("a")
        await broker.declare(results, Limits(messages=3))
        messages = [Message(queue=results, body=b"%d" % at) for at in range(6)]
        assert await broker.publish(messages) == [SAFE] * 6
        assert bodies(await take(broker.consume(results, 10), 3)) == [b"3", b"4", b"5"]
        await broker.delete(results)

    async def test_publishing_nothing_is_fine(self, broker: Broker) -> None:
        assert await broker.publish([]) == []


class LogContract:
    """Logs: append-only, read by any number of readers, each with an offset of its own."""

    async def test_records_are_read_in_order_from_the_beginning(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        assert await broker.append(log, [b"a", b"b", b"c"], {"dataschema": "v1", "n": 1}) == [SAFE] * 3
        records = await read(broker.read(log, 0), 3)
        assert [(record.offset, record.body) for record in records] == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert all(dict(record.headers) == {"dataschema": "v1", "n": 1} for record in records)

    async def test_reading_resumes_at_an_offset(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        await broker.append(log, [b"%d" % at for at in range(10)])
        assert bodies(await read(broker.read(log, 4), 6)) == [b"4", b"5", b"6", b"7", b"8", b"9"]

    async def test_two_readers_read_all_of_it(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        wanted = [b"%d" % at for at in range(100)]
        await broker.append(log, wanted)
        other = await site.broker()
        assert bodies(await read(broker.read(log, 0), 100)) == wanted
        assert bodies(await read(other.read(log, 0), 100)) == wanted

    async def test_a_reader_waits_for_new_records(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        reader = broker.read(log, 0)
        waiting = asyncio.create_task(reader.read(10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await broker.append(log, [b"new"])
        assert bodies(await asyncio.wait_for(waiting, DEADLINE_S)) == [b"new"]

    async def test_a_reader_waits_for_a_log_that_is_not_there_yet(self, site: Site, broker: Broker) -> None:
        reader = broker.read(site.channels.events("late"), 0)
        waiting = asyncio.create_task(reader.read(10))
        await asyncio.sleep(0.1)
        await broker.append(await site.log(broker, "late"), [b"x"])
        assert bodies(await asyncio.wait_for(waiting, DEADLINE_S)) == [b"x"]

    async def test_a_reader_since_a_time_misses_nothing_written_after_it(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        await broker.append(log, [b"before"])
        await asyncio.sleep(1.1)
        since = Since(now_us())
        await broker.append(log, [b"after"])
        reader = broker.read(log, since)
        async with asyncio.timeout(DEADLINE_S):
            while b"after" not in bodies(await reader.read(10)):
                pass

    async def test_the_end_is_where_the_next_record_goes(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        assert await broker.end(log) == 0
        for size in (1, 5, 500):
            await broker.append(log, [b"x"] * size)
        end = await broker.end(log)
        assert end == 506
        await broker.append(log, [b"next"])
        (record,) = await read(broker.read(log, end), 1)
        assert (record.offset, record.body) == (end, b"next")

    async def test_a_record_is_read_while_others_are_written(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker)
        reader = broker.read(log, 0)
        wanted = [b"%d" % at for at in range(2000)]

        async def write() -> None:
            for at in range(0, len(wanted), 50):
                await broker.append(log, wanted[at : at + 50])

        writer = asyncio.create_task(write())
        assert bodies(await read(reader, len(wanted))) == wanted
        await writer

    async def test_reading_below_the_first_offset_is_a_gap(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker, limits=Limits(bytes=100_000))
        for _ in range(60):
            await broker.append(log, [b"x" * 5_000])
        reader = broker.read(log, 0)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Gap) as caught:
                while await reader.read(10):
                    pass
        assert caught.value.start == 0
        (record,) = await read(reader, 1)
        assert record.offset == caught.value.end > 0

    async def test_a_log_that_is_trimmed_is_read_on_without_a_gap(self, site: Site, broker: Broker) -> None:
        log = await site.log(broker, limits=Limits(bytes=100_000))
        reader = broker.read(log, 0)
        for at in range(60):
            await broker.append(log, [b"%d" % at + b"x" * 5_000])
            (record,) = await read(reader, 1)
            assert record.body.startswith(b"%dx" % at)

    async def test_records_of_all_kinds_of_logs_are_kept(self, site: Site, broker: Broker) -> None:
        for log in (site.channels.declared, site.channels.status):
            await broker.declare(log)
            await broker.append(log, [b"x"])
            assert bodies(await read(broker.read(log, 0), 1)) == [b"x"]
            await broker.delete(log)


class BrokerContract(QueueContract, LogContract):
    """All of it."""

    async def test_a_ping_is_answered(self, broker: Broker) -> None:
        await broker.ping()

    async def test_closing_twice_is_fine(self, site: Site) -> None:
        broker = await site.broker()
        await broker.close()
        await broker.close()
