"""The contract of logs."""

from __future__ import annotations

import asyncio

import pytest

from broker.base import Broker, Since
from broker.channels import Limits
from broker.errors import Gap
from broker.messages import SAFE
from broker.protocol.ids import now_us
from tests.contract.installation import DEADLINE_S, Installation
from tests.contract.steps import bodies, read


class LogContract:
    """Logs: append-only, read by any number of readers, each with an offset of its own."""

    async def test_records_are_read_in_order_from_the_beginning(
        self, installation: Installation, broker: Broker
    ) -> None:
        log = await installation.log(broker)
        assert await broker.append(log, [b"a", b"b", b"c"], {"dataschema": "v1", "n": 1}) == [SAFE] * 3
        records = await read(broker.read(log, 0), 3)
        assert [(record.offset, record.body) for record in records] == [(0, b"a"), (1, b"b"), (2, b"c")]
        assert all(dict(record.headers) == {"dataschema": "v1", "n": 1} for record in records)

    async def test_reading_resumes_at_an_offset(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker)
        await broker.append(log, [b"%d" % at for at in range(10)])
        assert bodies(await read(broker.read(log, 4), 6)) == [b"4", b"5", b"6", b"7", b"8", b"9"]

    async def test_two_readers_read_all_of_it(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker)
        wanted = [b"%d" % at for at in range(100)]
        await broker.append(log, wanted)
        other = await installation.broker()
        assert bodies(await read(broker.read(log, 0), 100)) == wanted
        assert bodies(await read(other.read(log, 0), 100)) == wanted

    async def test_a_reader_waits_for_new_records(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker)
        reader = broker.read(log, 0)
        waiting = asyncio.create_task(reader.read(10))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await broker.append(log, [b"new"])
        assert bodies(await asyncio.wait_for(waiting, DEADLINE_S)) == [b"new"]

    async def test_a_reader_waits_for_a_log_that_does_not_exist_yet(
        self, installation: Installation, broker: Broker
    ) -> None:
        reader = broker.read(installation.channels.events("late"), 0)
        waiting = asyncio.create_task(reader.read(10))
        await asyncio.sleep(0.1)
        await broker.append(await installation.log(broker, "late"), [b"x"])
        assert bodies(await asyncio.wait_for(waiting, DEADLINE_S)) == [b"x"]

    async def test_a_reader_since_a_time_misses_nothing_written_after_it(
        self, installation: Installation, broker: Broker
    ) -> None:
        log = await installation.log(broker)
        await broker.append(log, [b"before"])
        await asyncio.sleep(1.1)
        since = Since(now_us())
        await broker.append(log, [b"after"])
        reader = broker.read(log, since)
        async with asyncio.timeout(DEADLINE_S):
            while b"after" not in bodies(await reader.read(10)):
                pass

    async def test_the_end_is_the_offset_of_the_next_record(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker)
        assert await broker.end(log) == 0
        for size in (1, 5, 500):
            await broker.append(log, [b"x"] * size)
        end = await broker.end(log)
        assert end == 506
        await broker.append(log, [b"next"])
        (record,) = await read(broker.read(log, end), 1)
        assert (record.offset, record.body) == (end, b"next")

    async def test_a_record_is_read_while_others_are_written(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker)
        reader = broker.read(log, 0)
        wanted = [b"%d" % at for at in range(2000)]

        async def write() -> None:
            for at in range(0, len(wanted), 50):
                await broker.append(log, wanted[at : at + 50])

        writer = asyncio.create_task(write())
        assert bodies(await read(reader, len(wanted))) == wanted
        await writer

    async def test_reading_below_the_first_offset_is_a_gap(self, installation: Installation, broker: Broker) -> None:
        log = await installation.log(broker, limits=Limits(bytes=100_000))
        for _ in range(60):
            await broker.append(log, [b"x" * 5_000])
        reader = broker.read(log, 0)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Gap) as caught:
                await read(reader, 60)
        assert caught.value.start == 0
        (record,) = await read(reader, 1)
        assert record.offset == caught.value.end > 0

    async def test_a_reader_of_a_log_that_is_trimmed_meets_no_gap(
        self, installation: Installation, broker: Broker
    ) -> None:
        log = await installation.log(broker, limits=Limits(bytes=100_000))
        reader = broker.read(log, 0)
        for at in range(60):
            await broker.append(log, [b"%d" % at + b"x" * 5_000])
            (record,) = await read(reader, 1)
            assert record.body.startswith(b"%dx" % at)

    async def test_records_of_all_kinds_of_logs_are_kept(self, installation: Installation, broker: Broker) -> None:
        for log in (installation.channels.declared, installation.channels.status):
            await broker.declare(log)
            await broker.append(log, [b"x"])
            assert bodies(await read(broker.read(log, 0), 1)) == [b"x"]
            await broker.delete(log)
