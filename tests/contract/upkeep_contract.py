"""The contract of channels that another program deletes while they are used."""

from __future__ import annotations

import asyncio

from broker.base import Broker, Reader
from broker.errors import Gap, TryAgain
from broker.messages import NO_QUEUE, SAFE, Message, Outcome
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, read, take, until


class UpkeepContract:
    """A channel that a process declared exists for as long as the process does."""

    async def test_a_queue_that_another_process_deletes_is_made_again(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        other = await installation.broker()
        await other.delete(queue)
        await until(lambda: publish(other, queue, b"x"), SAFE)
        assert bodies(await take(broker.consume(queue, 10))) == [b"x"]

    async def test_a_consumer_continues_with_the_queue_that_was_made_again(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        consumer = broker.consume(queue, 10)
        await publish(broker, queue, b"first")
        await broker.ack(await take(consumer))
        other = await installation.broker()
        await other.delete(queue)
        await until(lambda: publish(other, queue, b"second"), SAFE)
        assert bodies(await take(consumer)) == [b"second"]

    async def test_deliveries_of_a_deleted_queue_settle_nothing_in_the_new_one(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        consumer = broker.consume(queue, 10)
        for body in (b"one", b"two", b"three"):
            await publish(broker, queue, body)
        held = await take(consumer, 3)
        other = await installation.broker()
        await other.delete(queue)
        await until(lambda: publish(other, queue, b"four"), SAFE)
        assert await publish(other, queue, b"five") == await publish(other, queue, b"six") == SAFE
        await broker.ack(held)
        await broker.flush()
        later = await take(consumer, 3)
        assert sorted(bodies(later)) == [b"five", b"four", b"six"]
        await consumer.stop()
        await broker.requeue(later)
        assert sorted(bodies(await take(other.consume(queue, 10), 3))) == [b"five", b"four", b"six"]

    async def test_the_reader_of_a_log_that_was_made_again_gets_a_gap(
        self, installation: Installation, broker: Broker
    ) -> None:
        log = await installation.log(broker)
        await broker.append(log, [b"1", b"2", b"3"])
        reader = broker.read(log, 0)
        await read(reader, 3)
        waiting = asyncio.create_task(next_or_gap(reader))
        other = await installation.broker()
        await other.delete(log)
        await until(lambda: publish(other, log, b"4"), SAFE)
        async with asyncio.timeout(DEADLINE_S):
            gap = await waiting
        assert isinstance(gap, Gap)
        assert (gap.is_recreated, gap.start, gap.end) == (True, 3, 0)
        records = await read(reader, 1)
        assert (bodies(records), records[0].offset) == ([b"4"], 0)
        await reader.close()

    async def test_a_channel_that_its_own_process_deletes_stays_deleted(
        self, installation: Installation, broker: Broker
    ) -> None:
        queue = await installation.queue(broker)
        await broker.delete(queue)
        await until(lambda: publish(broker, queue, b"x"), NO_QUEUE)
        assert not broker.upkeep.keeps(queue)
        await broker.upkeep.check()
        assert await publish(broker, queue, b"x") == NO_QUEUE

    async def test_missing_channels_are_listed(self, installation: Installation, broker: Broker) -> None:
        queue, log = await installation.queue(broker), await installation.log(broker)
        gone = [installation.channels.requests("gone"), installation.channels.events("gone")]
        assert sorted(await broker.missing([queue, gone[0], log, gone[1]])) == sorted(gone)


async def publish(broker: Broker, channel: str, body: bytes) -> Outcome | None:
    """Publish one message; return None if nothing was sent."""
    try:
        (outcome,) = await broker.publish([Message(queue=channel, body=body)])
    except TryAgain:
        return None
    return outcome


async def next_or_gap(reader: Reader) -> Gap | None:
    """Return the gap that the next read raises; None if it raises none."""
    try:
        await reader.read(1)
    except Gap as gap:
        return gap
    return None
