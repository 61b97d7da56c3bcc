"""A file that several open at once: none of them is turned away."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.database import Care, Connection, Database, Schema, fetch_one, run

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


def _say(connection: Connection) -> None:
    run(connection, "INSERT INTO said VALUES ('here')")


def _count(connection: Connection) -> int:
    return int(fetch_one(connection, "SELECT count(*) FROM said")[0])
