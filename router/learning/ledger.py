"""The ledger: what the learner knows, in one SQLite file. Statistics, joins, seen uids and the offset are one commit.

It is a copy of what the event logs say, so that a restart does not fold them from the beginning. Only who led last,
by its own reading of the claims, may write: a leader that was stopped and wakes up finds another term, and its commit
fails.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from broker.errors import Damaged, MillraceError, Unavailable
from broker.protocol.ids import now_us
from broker.records.routing import LogPosition
from broker.support.database import Connection, Database, Durability, Schema, fetch_all, fetch_one, run, run_many
from router.learning.fold import ExperimentFold
from router.learning.joins import write_join
from router.learning.waiting import ChangedUids

log = logging.getLogger(__name__)

SCHEMA = Schema(
    whose="the learner",
    setting="data",
    version=1,
    tables="""
CREATE TABLE IF NOT EXISTS leader (one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS experiments (
    endpoint TEXT PRIMARY KEY, experiment TEXT NOT NULL, "offset" INTEGER NOT NULL, tick INTEGER NOT NULL,
    at_us INTEGER NOT NULL, document BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS joins (
    endpoint TEXT NOT NULL, uid BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (endpoint, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
    endpoint TEXT NOT NULL, uid BLOB NOT NULL, accepted_us INTEGER NOT NULL, PRIMARY KEY (endpoint, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    endpoint TEXT NOT NULL, what TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (endpoint, what, digest)
) WITHOUT ROWID;
""",
)


class LeaderSuperseded(MillraceError):
    """Somebody else leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What the ledger holds of an experiment."""

    at: LogPosition
    last: str  # the digest of the record before `at`; empty if it is not known
    document: Mapping[str, Any]
    joins: Mapping[bytes, Any]
    seen: Mapping[bytes, int]
    keys: Mapping[str, set[bytes]]


class Ledger:
    """The file, as one leader sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, SCHEMA, on_recreated=self._lead_anew)
        self._term = -1
        self._files = 0  # how often the file was made again
        self._written: dict[str, int] = {}  # endpoints that are whole in that file

    async def open(self) -> None:
        """Open the file, and make it if it is not there.

        One that is no database, is damaged or has other tables is put aside: the logs say all that was in it.
        """
        try:
            await self._opened()
        except Damaged as exc:
            await self._database.close()
            aside = self._path.with_name(f"{self._path.name}.damaged-{now_us()}")
            log.warning("%s; it is now %s, and what it held is read from the event logs", exc, aside)
            self._path.replace(aside)
            for rest in ("-wal", "-shm"):
                self._path.with_name(self._path.name + rest).unlink(missing_ok=True)
            await self._opened()

    async def _opened(self) -> None:
        await self._database.open()
        await self._database.run(_check, Durability.READ)

    async def close(self) -> None:
        """Finish what was asked for."""
        await self._database.close()

    async def lead(self, term: int) -> None:
        """Write for `term` from now on: whoever calls this has just read its own claim as the newest one."""
        self._term = term
        sql = "INSERT INTO leader VALUES (1, ?) ON CONFLICT DO UPDATE SET term = excluded.term"
        await self._database.run(lambda connection: run(connection, sql, (term,)), Durability.WRITE)

    async def load(self, endpoint: str, experiment: str) -> SavedState | None:
        """Return what is kept of an endpoint's experiment; None if it is nothing, or of another one."""
        kept: SavedState | None = await self._database.run(
            lambda connection: _load(connection, endpoint, experiment), Durability.READ
        )
        return kept

    async def save(self, fold: ExperimentFold[Any], *, whole: bool = False) -> None:
        """Write what has changed, or everything there is; raises Superseded, and then nothing is written."""
        rows = _Rows.of(fold, whole=whole or self._written.get(fold.subject.endpoint, 0) != self._files)
        term = self._term

        def write(connection: Connection) -> int:
            if not rows.whole and self._files != self._written.get(rows.endpoint, 0):
                raise Unavailable(f"{self._path} was made again while {rows.endpoint} was being written")
            _save(connection, term, rows)
            return self._files

        self._written[rows.endpoint] = await self._database.run(write, Durability.WRITE)

    def _lead_anew(self, connection: Connection) -> None:
        """Lead in a file that was made again; what each endpoint saves next is all of it."""
        self._files += 1
        run(connection, "INSERT INTO leader VALUES (1, ?)", (self._term,))


def digest(record: bytes | None) -> str:
    """Return what tells one record from another."""
    return "" if record is None else hashlib.blake2b(record, digest_size=16).hexdigest()


def take_up(fold: ExperimentFold[Any], kept: SavedState) -> None:
    """Put a fold where the ledger was left; raises ValueError if that was written by another kind of experiment."""
    fold.restore(kept.document, kept.at)
    fold.waiting.restore(kept.joins, kept.seen, kept.at.number)
    fold.keys = {what: set(keys) for what, keys in kept.keys.items()}


@dataclass(frozen=True, slots=True)
class _Rows:
    """What one commit writes, made before it: the fold goes on meanwhile."""

    endpoint: str
    head: tuple[Any, ...]
    joins: list[tuple[str, bytes, bytes]]
    seen: list[tuple[str, bytes, int]]
    keys: list[tuple[str, str, bytes]]
    gone_joins: list[tuple[str, bytes]]
    gone_seen: list[tuple[str, bytes]]
    whole: bool

    @classmethod
    def of(cls, fold: ExperimentFold[Any], *, whole: bool) -> _Rows:
        """Return the changes of a fold since the last time."""
        name, waiting = fold.subject.endpoint, fold.waiting
        changed, waiting.changed = waiting.changed, ChangedUids()
        keys, fold.new_keys = fold.new_keys, []
        joins, seen = changed.joins, changed.seen
        if whole:
            joins, seen = set(waiting.joins), set(waiting.seen)
            keys = [(what, key) for what, some in fold.keys.items() for key in some]
        document = orjson.dumps({**fold.document(), "last": digest(fold.last)})
        return cls(
            name,
            (name, fold.subject.experiment, fold.offset, fold.tick, fold.at_us, document),
            [(name, uid, orjson.dumps(write_join(waiting.joins[uid]))) for uid in joins if uid in waiting.joins],
            [(name, uid, waiting.seen[uid]) for uid in seen if uid in waiting.seen],
            [(name, what, key) for what, key in keys],
            [(name, uid) for uid in joins if uid not in waiting.joins],
            [(name, uid) for uid in seen if uid not in waiting.seen],
            whole,
        )


def _check(connection: Connection) -> None:
    """Raise what is wrong with a file that could be opened."""
    found = fetch_one(connection, "PRAGMA quick_check(1)")
    if found != ("ok",):
        raise Damaged(f"the ledger is damaged: {found and found[0]}")
    fetch_one(connection, "SELECT term FROM leader")
    fetch_one(connection, 'SELECT endpoint, experiment, "offset", tick, at_us, document FROM experiments')
    fetch_one(connection, "SELECT endpoint, uid, data FROM joins")
    fetch_one(connection, "SELECT endpoint, uid, accepted_us FROM seen")
    fetch_one(connection, "SELECT endpoint, what, digest FROM keys")


def _save(connection: Connection, term: int, rows: _Rows) -> None:
    found = fetch_one(connection, "SELECT term FROM leader")
    if found is None or found[0] != term:
        raise LeaderSuperseded(f"the ledger is led by claim {found and found[0]}, this one is {term}")
    if rows.whole:
        for table in ("joins", "seen", "keys"):
            run(connection, f"DELETE FROM {table} WHERE endpoint = ?", (rows.endpoint,))  # noqa: S608 - names of ours
    run_many(connection, "DELETE FROM joins WHERE endpoint = ? AND uid = ?", rows.gone_joins)
    run_many(connection, "DELETE FROM seen WHERE endpoint = ? AND uid = ?", rows.gone_seen)
    run_many(connection, "INSERT OR REPLACE INTO joins VALUES (?, ?, ?)", rows.joins)
    run_many(connection, "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows.seen)
    run_many(connection, "INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", rows.keys)
    run(connection, "INSERT OR REPLACE INTO experiments VALUES (?, ?, ?, ?, ?, ?)", rows.head)


def _load(connection: Connection, endpoint: str, experiment: str) -> SavedState | None:
    sql = 'SELECT "offset", tick, at_us, document FROM experiments WHERE endpoint = ? AND experiment = ?'
    head = fetch_one(connection, sql, (endpoint, experiment))
    if head is None:
        return None
    joins = fetch_all(connection, "SELECT uid, data FROM joins WHERE endpoint = ?", (endpoint,))
    seen = fetch_all(connection, "SELECT uid, accepted_us FROM seen WHERE endpoint = ?", (endpoint,))
    keys: dict[str, set[bytes]] = {}
    for what, digest in fetch_all(connection, "SELECT what, digest FROM keys WHERE endpoint = ?", (endpoint,)):
        keys.setdefault(what, set()).add(digest)
    document = orjson.loads(head[3])
    return SavedState(
        at=LogPosition(offset=head[0], number=head[1], at_us=head[2]),
        last=document["last"],
        document=document,
        joins={uid: orjson.loads(data) for uid, data in joins},
        seen=dict(seen),
        keys=keys,
    )
