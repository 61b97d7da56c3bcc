"""The files of the embedded broker can be removed, or their disk can be full, while processes use them."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.errors import DiskFull, TryAgain
from broker.messages import SAFE, STOPPED, Delivery, Message
from broker.sqlite.adapter import SqliteBroker
from broker.sqlite.ownership import Ownership
from broker.support.database import Durability
from tests.waiting import until

CHANNELS = Channels()
QUEUE = CHANNELS.requests("e")
PATIENCE_S = 20.0


async def publish(broker: SqliteBroker, body: bytes) -> bool:
    """Publish a message; return True if it is safe."""
    try:
        return await broker.publish([Message(queue=QUEUE, body=body)]) == [SAFE]
    except TryAgain:
        return False


async def test_a_process_whose_lock_file_was_removed_is_not_taken_for_dead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broker.db"
    async with SqliteBroker(path, CHANNELS) as one, SqliteBroker(path, CHANNELS) as other:
        await one.declare(QUEUE)
        await other.declare(CHANNELS.answers("other"))
        await publish(one, b"x")
        [held] = await other.consume(QUEUE, 1).take(1)
        for file in (tmp_path / "broker.db.owners").iterdir():
            file.unlink()
        await until(lambda: locked(tmp_path / "broker.db.owners", 2))
        await asyncio.sleep(2 * 0.5)  # each process checks twice
        assert (await one.depth(QUEUE)).messages == 0  # the other process still holds it
        assert not await one.missing([CHANNELS.answers("other")])
        await other.ack([held])
        assert "was removed" in caplog.text


async def locked(folder: Path, number: int) -> bool:
    """Return True if the folder has this many lock files."""
    return len(await asyncio.to_thread(lambda: list(folder.glob("*")))) == number


async def test_a_process_that_died_without_its_lock_file_is_found_dead(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with SqliteBroker(path, CHANNELS) as one:
        await one.declare(QUEUE)
        await publish(one, b"x")
        dead = SqliteBroker(path, CHANNELS)
        await dead.open()
        assert await dead.consume(QUEUE, 1).take(1)
        await abandon(dead)
        (tmp_path / "broker.db.owners" / f"{dead.owner}.lock").unlink()
        owners = Ownership(path, missing_s=0.1)
        assert not await one.database.run(owners.any_dead, Durability.READ)
        await until(lambda: one.database.run(owners.any_dead, Durability.READ))
        assert await one.database.run(owners.reclaim_from_dead_processes, Durability.WRITE) == [QUEUE]
        [back] = await asyncio.wait_for(one.consume(QUEUE, 1).take(1), PATIENCE_S)
        assert back.came_back == 1


async def abandon(broker: SqliteBroker) -> None:
    """Close a broker like a kill: its entry stays in the file."""
    broker._watch.cancel()  # type: ignore[union-attr]  # noqa: SLF001 - there is no public method for a kill
    await broker.upkeep.stop()
    await broker.database.close()
    broker._session._wakeups.close()  # noqa: SLF001 - as above
    os.close(broker._session._ownership._file)  # type: ignore[arg-type]  # noqa: SLF001 - as above


async def test_a_data_folder_that_is_removed_is_made_again_and_serves_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    path = folder / "broker.db"
    async with SqliteBroker(path, CHANNELS) as one, SqliteBroker(path, CHANNELS) as other:
        await one.declare(QUEUE)
        await other.declare(CHANNELS.answers("other"))
        consumer = other.consume(QUEUE, 10)
        await publish(one, b"before")
        [held] = await consumer.take(1)
        shutil.rmtree(folder)
        await until(lambda: publish(one, b"after"))
        taken: list[Delivery] = await asyncio.wait_for(consumer.take(1), PATIENCE_S)
        assert taken[0].message.body == b"after"
        await other.ack([held])  # of the removed file: it must not settle a message of the new one
        await other.requeue(taken)
        await until(lambda: exists(one, CHANNELS.answers("other")))
        async with SqliteBroker(path, CHANNELS) as late:
            assert (await asyncio.wait_for(consumer.take(1), PATIENCE_S))[0].message.body == b"after"
            await until(lambda: publish(late, b"late"))
        assert (await asyncio.wait_for(consumer.take(1), PATIENCE_S))[0].message.body == b"late"
        assert f"{path} was removed while it was in use" in caplog.text


async def exists(broker: SqliteBroker, channel: str) -> bool:
    return not await broker.missing([channel])


async def test_a_full_disk_refuses_publishes_at_once_and_ends_no_consumer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker:
        await broker.declare(QUEUE)
        consumer = broker.consume(QUEUE, 10)
        await publish(broker, b"x")
        [held] = await consumer.take(1)
        await limit_pages(broker, 1)
        message = Message(queue=QUEUE, body=bytes(100_000))
        assert await broker.publish([message] * 3) == [STOPPED] * 3
        assert "the disk is full" in broker.stopped_by
        assert broker.troubles() == [broker.stopped_by]
        with pytest.raises(DiskFull, match="the disk is full"):
            await declare_many(broker)
        await limit_pages(broker, 1 << 30)
        assert await broker.publish([message]) == [SAFE]
        assert broker.troubles() == []
        await broker.ack([held])
        assert "can be written again" in caplog.text


async def declare_many(broker: SqliteBroker) -> None:
    for number in range(1000):
        await broker.declare(CHANNELS.requests(f"x{number}"))


async def limit_pages(broker: SqliteBroker, pages: int) -> None:
    """Keep the file from growing: SQLite then reports a full disk."""
    await broker.database.run(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchall(), Durability.READ)
