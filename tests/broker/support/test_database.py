"""A file that several processes open at once, its mode, and the errors for damage and locks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from broker.channels import Channels
from broker.errors import Damaged, Locked, Misconfigured
from broker.sqlite.adapter import SqliteBroker
from broker.support.database import GROUP, Connection, Database, Durability, Schema, fetch_one, run
from broker.support.lock_holder import lock_holder
from tests.broker.locking import HOLDS, held, shorten_lock_waits

SCHEMA = Schema("a test", "no setting", 1, "CREATE TABLE IF NOT EXISTS words (word TEXT NOT NULL)")
FILES = 100
AT_ONCE = 6


async def test_many_can_make_the_same_file_at_once(tmp_path: Path) -> None:
    for number in range(FILES):
        databases = [Database(tmp_path / f"{number}.db", SCHEMA) for _ in range(AT_ONCE)]
        await asyncio.gather(*(database.open() for database in databases))
        await asyncio.gather(*(database.run(_write, Durability.WRITE) for database in databases))
        assert await databases[0].run(_count, Durability.READ) == AT_ONCE
        await asyncio.gather(*(database.close() for database in databases))


async def test_the_files_of_a_database_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data/said.db"
    database = Database(path, SCHEMA)
    await database.open()
    await database.run(_write, Durability.WRITE)
    assert modes(path.parent) == {"": 0o700, "said.db": 0o600, "said.db-wal": 0o600, "said.db-shm": 0o600}
    await database.close()
    path.chmod(0o644)  # as earlier versions made them
    await database.open()
    assert set(modes(path.parent).values()) == {0o700, 0o600}
    await database.close()


async def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # noqa: ASYNC240 - a folder of a test
    database = Database(tmp_path / "said.db", SCHEMA)
    await database.open()
    await database.close()
    assert modes(tmp_path) == {"": 0o755, "said.db": 0o600}


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of a folder, as the empty name, and of each file in it."""
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    return {"": folder.stat().st_mode & 0o777, **files}


async def test_a_file_that_is_not_a_database_is_damaged_and_its_error_tells_how_to_fix_it(tmp_path: Path) -> None:
    path = tmp_path / "said.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(Damaged, match=r"move said\.db, said\.db-wal, said\.db-shm away, and start again"):
        await Database(path, SCHEMA).open()


@pytest.mark.parametrize("kept_bytes", [0, 4096])
async def test_a_damaged_embedded_broker_is_misconfigured(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "broker.db"
    async with SqliteBroker(path, Channels()) as broker:
        await broker.declare("millrace.requests.hello")
    whole = path.read_bytes()
    path.write_bytes(whole[:kept_bytes] + b"no database at all" * (len(whole) // 18))
    with pytest.raises(Misconfigured, match=r"move broker\.db, .* away, and start again\. The messages in it are lost"):
        await SqliteBroker(path, Channels()).open()


async def test_a_lock_that_is_held_too_long_is_reported_with_its_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_lock_waits(monkeypatch)
    path = tmp_path / "a.db"
    database = Database(path, SCHEMA)
    await database.open()
    with held(path) as pid:
        named = f"{path}: process {pid} (replica fraud 7) has held its write lock for 0 s"
        waiting = [database.run(_write, Durability.WRITE) for _ in range(GROUP)]
        said = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in said} == {Locked}
        assert str(said[0]).startswith(named)
        assert database.locked.startswith(named)
        assert caplog.text.count("has held its write lock") == 1
        assert await database.run(_count, Durability.READ) == 0
        with pytest.raises(Locked, match=f"a test cannot use .*process {pid} .replica fraud 7."):
            await Database(path, SCHEMA).open()
    await database.run(_write, Durability.WRITE)
    assert database.locked == ""
    assert "its write lock is free again" in caplog.text
    assert await database.run(_count, Durability.READ) == 1
    await database.close()


async def test_finding_the_holder_of_a_lock_keeps_this_processs_own_locks(tmp_path: Path) -> None:
    """The kernel drops a process's locks on a file when it closes any descriptor of that file."""
    path = tmp_path / "a.db"
    database = Database(path, SCHEMA)
    await database.open()
    await database.run(_write, Durability.WRITE)
    mine = apsw.Connection(str(path))
    mine.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        assert lock_holder(path) == "an unknown process"  # it is this one
    command = [sys.executable, "-c", HOLDS, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert b"BusyError" in done.stderr
    mine.execute("COMMIT")
    mine.close()
    await database.close()


def _write(connection: Connection) -> None:
    run(connection, "INSERT INTO words VALUES ('here')")


def _count(connection: Connection) -> int:
    return int(fetch_one(connection, "SELECT count(*) FROM words")[0])
