"""The contract of settling messages."""

from __future__ import annotations

import asyncio

from broker.base import Broker
from broker.messages import NO_QUEUE, SAFE, Message
from broker.protocol.header import BodyForm, pack_head
from broker.protocol.ids import now_us
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, nothing_comes, take


class SettleContract:
    """A message that was taken ends in exactly one way."""

    async def test_two_consumers_get_ten_thousand_messages_once_each(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue, number = await installation.queue(broker), 10_000
        got: list[bytes] = []

        async def work(own: Broker) -> None:
            consumer = own.consume(queue, 500)
            while len(got) < number:
                deliveries = await consumer.take(200)
                got.extend(bodies(deliveries))
                await own.ack(deliveries)

        workers = [asyncio.create_task(work(await installation.broker())) for _ in range(2)]
        messages = [Message(queue=queue, body=b"%d" % at) for at in range(number)]
        for at in range(0, number, 1000):
            assert set(await broker.publish(messages[at : at + 1000])) == {SAFE}
        async with asyncio.timeout(60):
            await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert sorted(got, key=int) == [message.body for message in messages]

    async def test_a_dead_process_gives_back_what_it_held(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(5)])
        child = installation.child(queue, 5)
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "held\n"
        child.kill()
        taken = await take(broker.consume(queue, 10), 5)
        assert sorted(bodies(taken)) == [b"0", b"1", b"2", b"3", b"4"]
        assert all(delivery.came_back > 0 for delivery in taken)

    async def test_a_closed_broker_gives_back_what_it_held(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"x")])
        other = await installation.broker()
        await take(other.consume(queue, 10))
        await other.close()
        (taken,) = await take(broker.consume(queue, 10))
        assert taken.came_back > 0

    async def test_a_requeued_message_comes_back(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"x")])
        consumer = broker.consume(queue, 10)
        await broker.requeue(await take(consumer))
        (taken,) = await take(consumer)
        assert (taken.message.body, taken.came_back) == (b"x", 1)

    async def test_a_message_may_come_back_many_times(self, installation: Installation, broker: Broker) -> None:
        queue, often = await installation.queue(broker), 25  # by default, RabbitMQ 4 drops a message after 20
        await broker.publish([Message(queue=queue, body=b"x")])
        consumer = broker.consume(queue, 10)
        for _ in range(often):
            await broker.requeue(await take(consumer))
        (taken,) = await take(consumer)
        assert taken.message.body == b"x"

    async def test_an_acked_message_is_gone(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        other = await installation.broker()
        taken = await take(other.consume(queue, 10), 10)
        await other.ack(taken[5:8])
        await other.ack(taken[:3])
        await other.close()
        left = await take(broker.consume(queue, 10), 4)
        assert sorted(bodies(left)) == sorted(bodies(taken[3:5] + taken[8:]))

    async def test_settling_twice_is_harmless(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"first"), Message(queue=queue, body=b"second")])
        consumer = broker.consume(queue, 1)
        first = await take(consumer)
        await broker.ack(first)
        await broker.ack(first)
        assert bodies(await take(consumer)) == [b"second"]

    async def test_no_more_than_the_prefetch_is_held(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 3)
        await take(consumer, 3)
        assert await nothing_comes(consumer)

    async def test_messages_beyond_a_full_prefetch_are_taken_by_other_consumers(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        await take(broker.consume(queue, 3), 3)
        assert len(await take(broker.consume(queue, 10), 7)) == 7

    async def test_a_resized_consumer_holds_more(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 1)
        await take(consumer)
        consumer.resize(10)
        assert len(await take(consumer, 9)) == 9

    async def test_forward_acks_once_its_messages_are_safe(self, installation: Installation, broker: Broker) -> None:
        source, target = await installation.queue(broker, "a"), await installation.queue(broker, "b")
        await broker.publish([Message(queue=source, body=b"x")])
        other = await installation.broker()
        taken = await take(other.consume(source, 10))
        assert await other.forward(taken, [Message(queue=target, body=b"y")]) == [SAFE]
        await other.close()
        assert bodies(await take(broker.consume(target, 10))) == [b"y"]
        assert await nothing_comes(broker.consume(source, 10))

    async def test_forward_acks_nothing_when_a_message_is_refused(
        self, installation: Installation, broker: Broker
    ) -> None:
        source = await installation.queue(broker)
        await broker.publish([Message(queue=source, body=b"x")])
        other = await installation.broker()
        taken = await take(other.consume(source, 10))
        missing = Message(queue=installation.channels.requests("missing"), body=b"y")
        assert await other.forward(taken, [missing]) == [NO_QUEUE]
        await other.close()
        assert bodies(await take(broker.consume(source, 10))) == [b"x"]

    async def test_a_buried_message_keeps_its_bytes_and_has_the_reason(
        self, installation: Installation, broker: Broker
    ) -> None:
        sent = Message(
            queue=await installation.queue(broker),
            body=b"\x00bad",
            header=pack_head(BodyForm.SINGLE, 1),
            headers={"own": "header"},
            correlation_id="c",
            reply_to="r",
        )
        await broker.publish([sent])
        (taken,) = await take(broker.consume(sent.queue, 10))
        assert await broker.bury(taken, reason="failed", attempts=3, error="it broke") == [SAFE]
        (buried,) = await take(broker.consume(installation.channels.dead(sent.queue), 10))
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
            "own": "header",
            "millrace-dead-queue": sent.queue,
            "millrace-dead-reason": "failed",
            "millrace-dead-attempts": 3,
            "millrace-dead-error": "it broke",
        }

    async def test_a_stopped_consumer_drains(self, installation: Installation, broker: Broker) -> None:
        queue = await installation.queue(broker)
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(10)])
        consumer = broker.consume(queue, 10)
        taken = await take(consumer)
        await consumer.stop()
        async with asyncio.timeout(DEADLINE_S):
            while more := await consumer.take(3):
                taken += more
        await broker.ack(taken)
        left = await take(broker.consume(queue, 10), 10 - len(taken))
        assert sorted(bodies(left) + bodies(taken)) == [b"%d" % at for at in range(10)]

    async def test_stopping_wakes_a_take_that_waits(self, installation: Installation, broker: Broker) -> None:
        consumer = broker.consume(await installation.queue(broker), 10)
        waiting = asyncio.create_task(consumer.take(1))
        await asyncio.sleep(0)
        await consumer.stop()
        assert await asyncio.wait_for(waiting, DEADLINE_S) == []
