"""The embedded broker while another process holds the write lock of its file: it waits, and no task dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.errors import Locked
from broker.messages import Message
from broker.sqlite.adapter import SqliteBroker
from tests.broker.locking import held, shorten_lock_waits

WITHIN_S = 20.0


@pytest.fixture(autouse=True)
def _shorten_lock_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_lock_waits(monkeypatch)


async def until_named(broker: SqliteBroker) -> str:
    async with asyncio.timeout(WITHIN_S):
        while not broker.database.locked:  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.01)
    return broker.database.locked


async def test_takes_and_acks_wait_until_the_lock_is_free(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    async with SqliteBroker(path, Channels()) as broker:
        await broker.declare("q")
        await broker.publish([Message(queue="q", body=b"%d" % number) for number in range(3)])
        consumer = broker.consume("q", 3)
        first, second = await consumer.take(2)
        with held(path) as pid:
            acking = asyncio.ensure_future(broker.ack([first]))
            returning = asyncio.ensure_future(broker.requeue([second]))
            taking = asyncio.ensure_future(consumer.take(1))
            others = asyncio.ensure_future(broker.consume("q", 1).take(1))
            assert f"process {pid} (replica fraud 7)" in await until_named(broker)
            with pytest.raises(Locked, match=str(pid)):
                await broker.publish([Message(queue="q", body=b"no")])
            with pytest.raises(Locked, match=str(pid)):
                await broker.ping()
            done, _ = await asyncio.wait([acking, returning, taking, others], timeout=0)
            assert not done
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(acking, returning)
            taken = [*await taking, *await others]
        assert sorted(bytes(delivery.message.body) for delivery in taken) == [b"1", b"2"]
        assert {bytes(one.message.body): one.came_back for one in taken} == {b"1": 1, b"2": 0}
        await broker.ack(taken)
        assert (await broker.depth("q")).messages == 0


async def test_dead_processes_are_found_again_after_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    async with SqliteBroker(path, Channels()) as broker:
        await broker.declare("q")
        await broker.publish([Message(queue="q", body=b"x")])
        dead = SqliteBroker(path, Channels())
        await dead.open()
        assert len(await dead.consume("q", 1).take(1)) == 1
        dead._watch.cancel()  # type: ignore[union-attr]  # noqa: SLF001 - like its death
        with held(path):
            os.close(dead._session._ownership._file)  # type: ignore[arg-type]  # noqa: SLF001 - as above
            dead._session._ownership._file = None  # noqa: SLF001 - as above
            await until_named(broker)
        async with asyncio.timeout(WITHIN_S):
            [delivery] = await broker.consume("q", 1).take(1)
        assert delivery.came_back == 1
        await dead.close()


async def test_a_broker_that_closes_does_not_wait_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    broker = SqliteBroker(path, Channels())
    await broker.open()
    await broker.declare("q")
    consumer = broker.consume("q", 1)
    with held(path):
        async with asyncio.timeout(WITHIN_S):
            await consumer.stop()
            await broker.close()
    async with SqliteBroker(path, Channels()) as other:
        assert (await other.depth("q")).messages == 0
