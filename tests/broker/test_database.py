"""A file that several open at once: none of them is turned away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from broker.database import GROUP, Care, Connection, Database, Schema, fetch_one, run
from broker.errors import Locked
from broker.holder import holder_of
from tests.broker.locking import HOLDS, hasty, held

SCHEMA = Schema("a test", "no setting", 1, "CREATE TABLE IF NOT EXISTS said (word TEXT NOT NULL)")
FILES = 100
AT_ONCE = 6


async def test_all_who_make_the_same_file_at_once_have_it(tmp_path: Path) -> None:
    for number in range(FILES):
        databases = [Database(tmp_path / f"{number}.db", SCHEMA) for _ in range(AT_ONCE)]
        await asyncio.gather(*(database.open() for database in databases))
        await asyncio.gather(*(database.run(_say, Care.WRITE) for database in databases))
        assert await databases[0].run(_count, Care.READ) == AT_ONCE
        await asyncio.gather(*(database.close() for database in databases))


async def test_a_lock_that_is_held_too_long_is_named_with_the_process_that_holds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty(monkeypatch)
    path = tmp_path / "a.db"
    database = Database(path, SCHEMA)
    await database.open()
    with held(path) as pid:
        named = f"{path}: process {pid} (replica fraud 7) has held its write lock for 0 s"
        waiting = [database.run(_say, Care.WRITE) for _ in range(GROUP)]
        said = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in said} == {Locked}
        assert str(said[0]).startswith(named)
        assert database.locked.startswith(named)
        assert caplog.text.count("has held its write lock") == 1
        assert await database.run(_count, Care.READ) == 0
        with pytest.raises(Locked, match=f"a test cannot use .*process {pid} .replica fraud 7."):
            await Database(path, SCHEMA).open()
    await database.run(_say, Care.WRITE)
    assert database.locked == ""
    assert "its write lock is free again" in caplog.text
    assert await database.run(_count, Care.READ) == 1
    await database.close()


async def test_who_looks_for_the_holder_keeps_the_locks_of_its_own_process(tmp_path: Path) -> None:
    """The kernel drops a process's locks on a file when it closes any descriptor of that file."""
    path = tmp_path / "a.db"
    database = Database(path, SCHEMA)
    await database.open()
    await database.run(_say, Care.WRITE)
    mine = apsw.Connection(str(path))
    mine.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        assert holder_of(path) == "a process that cannot be found out"  # it is this one
    command = [sys.executable, "-c", HOLDS, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert b"BusyError" in done.stderr
    mine.execute("COMMIT")
    mine.close()
    await database.close()


def _say(connection: Connection) -> None:
    run(connection, "INSERT INTO said VALUES ('here')")


def _count(connection: Connection) -> int:
    return int(fetch_one(connection, "SELECT count(*) FROM said")[0])
