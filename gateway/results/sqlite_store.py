"""The results store as one SQLite file, shared by the gateways of one machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.protocol.header import Answer, Status
from broker.protocol.ids import now_us
from broker.support.database import Connection, Database, Durability, Schema, fetch_one, run
from gateway.results.store import FREEING, KeyClaim, ResultsStore, StoredResult

SWEEP_LIMIT = 1000  # rows in one transaction: other writes wait meanwhile
SWEEP_ROUNDS = 1000

SCHEMA = Schema(
    "the results store",
    "data",
    version=1,
    tables="""
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, uid BLOB NOT NULL UNIQUE, deadline_us INTEGER NOT NULL,
    scope BLOB UNIQUE, digest BLOB NOT NULL,       -- hashes of an idempotency key
    until_us INTEGER NOT NULL,                     -- when the answer is dropped, and later the row
    published INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0,
    status INTEGER, arm TEXT, version INTEGER, json_length INTEGER, body BLOB);
CREATE INDEX IF NOT EXISTS kept ON requests (dropped, until_us);
CREATE TABLE IF NOT EXISTS store (identity TEXT NOT NULL);
INSERT INTO store SELECT lower(hex(randomblob(6))) WHERE NOT EXISTS (SELECT 1 FROM store);
""",
)

_FREE_LAPSED = "UPDATE requests SET scope = NULL WHERE scope = ? AND status IS NULL AND deadline_us < ?"
_BY_SCOPE = """
SELECT uid, deadline_us, digest, published, dropped, status, arm, version, json_length, body
FROM requests WHERE scope = ?"""
_BY_UID = """
SELECT uid, deadline_us, digest, published, dropped, status, arm, version, json_length, body
FROM requests WHERE uid = ?"""
_INSERT = "INSERT INTO requests (uid, deadline_us, scope, digest, until_us) VALUES (?, ?, ?, ?, ?)"
_PUBLISH = "UPDATE requests SET published = 1 WHERE uid = ?"
_WITHDRAW = "DELETE FROM requests WHERE uid = ? AND status IS NULL"
_END = """
UPDATE requests SET status = ?, arm = ?, version = ?, json_length = ?, body = ?, until_us = ?
WHERE uid = ? AND status IS NULL AND NOT dropped RETURNING id"""
_FREE = "UPDATE requests SET scope = NULL WHERE uid = ?"
_REMOVE = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE dropped = 1 AND until_us < ? LIMIT ?)"
_DROP = """
UPDATE requests SET dropped = 1, scope = NULL, body = NULL, until_us = until_us + ?
WHERE id IN (SELECT id FROM requests WHERE dropped = 0 AND until_us < ? LIMIT ?)"""


class SqliteResults(ResultsStore):
    """Answers are kept for `ttl_s` seconds, and the records of dropped answers for as long again."""

    def __init__(self, path: Path, *, ttl_s: float, sweep_limit: int = SWEEP_LIMIT) -> None:
        self._database = Database(path, SCHEMA, on_recreated=self._keep_identity)
        self._ttl_us = int(ttl_s * 1e6)
        self._sweep_limit = sweep_limit
        self._identity = ""

    @property
    def identity(self) -> str:
        return self._identity

    async def open(self) -> None:
        await self._database.open()
        statement = "SELECT identity FROM store"
        self._identity = (
            await self._database.run(lambda connection: fetch_one(connection, statement), Durability.READ)
        )[0]

    def _keep_identity(self, connection: Connection) -> None:
        """Give a file that was created again the identity of the old one, whose queue this gateway takes from."""
        run(connection, "UPDATE store SET identity = ?", (self._identity,))

    async def close(self) -> None:
        await self._database.close()

    async def begin(
        self, uid: bytes, deadline_us: int, claim: KeyClaim | None, *, lapsed_us: int
    ) -> StoredResult | None:
        until_us = deadline_us + self._ttl_us

        def work(connection: Connection) -> StoredResult | None:
            if claim is not None:
                run(connection, _FREE_LAPSED, (claim.scope, lapsed_us))
                row = fetch_one(connection, _BY_SCOPE, (claim.scope,))
                if row is not None:
                    return _result(row)
            scope, digest = claim or (None, b"")
            run(connection, _INSERT, (uid, deadline_us, scope, digest, until_us))
            return None

        holder: StoredResult | None = await self._database.run(work, Durability.DURABLE)
        return holder

    async def claimed(self, claim: KeyClaim) -> StoredResult | None:
        row = await self._database.run(
            lambda connection: fetch_one(connection, _BY_SCOPE, (claim.scope,)), Durability.READ
        )
        return None if row is None else _result(row)

    async def publish(self, uid: bytes) -> None:
        await self._database.run(lambda connection: run(connection, _PUBLISH, (uid,)), Durability.WRITE)

    async def withdraw(self, uid: bytes) -> None:
        await self._database.run(lambda connection: run(connection, _WITHDRAW, (uid,)), Durability.DURABLE)

    async def end(self, answers: Sequence[Answer]) -> list[bool]:
        until_us = now_us() + self._ttl_us

        def work(connection: Connection) -> list[bool]:
            return [_end(connection, answer, until_us) for answer in answers]

        first: list[bool] = await self._database.run(work, Durability.DURABLE)
        return first

    async def find(self, uids: Sequence[bytes]) -> dict[bytes, StoredResult]:
        def work(connection: Connection) -> list[Any]:
            return [fetch_one(connection, _BY_UID, (uid,)) for uid in uids]

        rows = await self._database.run(work, Durability.READ)
        return {row[0]: _result(row) for row in rows if row is not None}

    async def sweep(self) -> int:
        for _ in range(SWEEP_ROUNDS):
            if not await self._database.run(self._drop_some, Durability.WRITE):
                break
        used: int = await self._database.run(_used_bytes, Durability.READ)
        return used

    def _drop_some(self, connection: Connection) -> bool:
        """Drop answers and delete records that were kept long enough. Returns True if there may be more of them."""
        now = now_us()
        run(connection, _REMOVE, (now, self._sweep_limit))
        removed = connection.changes()
        run(connection, _DROP, (self._ttl_us, now, self._sweep_limit))
        return max(removed, connection.changes()) == self._sweep_limit


def _used_bytes(connection: Connection) -> int:
    pages, free, size = (
        fetch_one(connection, f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _end(connection: Connection, answer: Answer, until_us: int) -> bool:
    status, body = int(answer.status), bytes(answer.body)
    row = fetch_one(
        connection, _END, (status, answer.arm, answer.version, answer.json_length, body, until_us, answer.uid)
    )
    if row is not None and answer.status in FREEING:
        run(connection, _FREE, (answer.uid,))
    return row is not None


def _result(row: Sequence[Any]) -> StoredResult:
    uid, deadline_us, digest, published, dropped, number, arm, version, json_length, body = row
    status = None if number is None else Status(number)
    answer = None
    if status is not None and not dropped:
        answer = Answer(uid=uid, status=status, arm=arm, version=version, json_length=json_length, body=body)
    return StoredResult(
        uid=uid,
        deadline_us=deadline_us,
        digest=digest,
        published=bool(published),
        status=status,
        answer=answer,
        dropped=bool(dropped),
    )
