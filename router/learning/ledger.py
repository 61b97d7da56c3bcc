"""The ledger: the state of all folds in one SQLite file. Statistics, joins, seen uids and the offset are one commit.

It is a copy of the event logs' content, so that a restart does not fold them from the beginning. Only the learner that
claimed leadership last may write: a suspended leader that wakes up later finds another term in the file, and its
commit fails.
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
from router.learning.fold_document import document_of, restore
from router.learning.joins import write_join

logger = logging.getLogger(__name__)

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
    """Another learner leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """The state of an experiment in the ledger."""

    at: LogPosition
    last: str  # the digest of the record before `at`; empty if unknown
    document: Mapping[str, Any]
    joins: Mapping[bytes, Any]
    seen: Mapping[bytes, int]
    keys: Mapping[str, set[bytes]]


class Ledger:
    """One leader's access to the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, SCHEMA, on_recreated=self._lead_anew)
        self._term = -1
        self._files = 0  # how many times the file was made again
        self._written: dict[str, int] = {}  # by endpoint: the value of `_files` when all of its state was written

    async def open(self) -> None:
        """Open the file, and create it if it is missing.

        A file that is damaged, or has other tables, is moved aside: the event logs have all of its content.
        """
        try:
            await self._opened()
        except Damaged as exc:
            await self._database.close()
            aside = self._path.with_name(f"{self._path.name}.damaged-{now_us()}")
            logger.warning("%s; it is now %s, and its content is read from the event logs again", exc, aside)
            self._path.replace(aside)
            for rest in ("-wal", "-shm"):
                self._path.with_name(self._path.name + rest).unlink(missing_ok=True)
            await self._opened()

    async def _opened(self) -> None:
        await self._database.open()
        await self._database.run(_check, Durability.READ)

    async def close(self) -> None:
        """Finish the pending calls and close the file."""
        await self._database.close()

    async def lead(self, term: int) -> None:
        """Write for `term` from now on. The caller has just read its own claim as the newest one."""
        self._term = term
        sql = "INSERT INTO leader VALUES (1, ?) ON CONFLICT DO UPDATE SET term = excluded.term"
        await self._database.run(lambda connection: run(connection, sql, (term,)), Durability.WRITE)

    async def load(self, endpoint: str, experiment: str) -> SavedState | None:
        """Return the saved state of an endpoint's experiment; None if there is none, or it is of another experiment."""
        saved: SavedState | None = await self._database.run(
            lambda connection: _load(connection, endpoint, experiment), Durability.READ
        )
        return saved

    async def save(self, fold: ExperimentFold[Any], *, whole: bool = False) -> None:
        """Write the changes since the last call, or with `whole` all of the state.

        Raises LeaderSuperseded, and writes nothing, if another learner leads.
        """
        rows = _Rows.of(fold, whole=whole or self._written.get(fold.spec.endpoint, 0) != self._files)
        term = self._term

        def write(connection: Connection) -> int:
            if not rows.whole and self._files != self._written.get(rows.endpoint, 0):
                raise Unavailable(f"{self._path} was made again while {rows.endpoint} was being written")
            _save(connection, term, rows)
            return self._files

        self._written[rows.endpoint] = await self._database.run(write, Durability.WRITE)

    def _lead_anew(self, connection: Connection) -> None:
        """Lead in a file that was made again; each endpoint writes all of its state next."""
        self._files += 1
        run(connection, "INSERT INTO leader VALUES (1, ?)", (self._term,))


def digest(record: bytes | None) -> str:
    """Return a hash of a record's body; empty for None."""
    return "" if record is None else hashlib.blake2b(record, digest_size=16).hexdigest()


def restore_saved(fold: ExperimentFold[Any], saved: SavedState) -> None:
    """Restore a fold from the ledger; raises ValueError if another kind of experiment wrote the state."""
    restore(fold, saved.document, saved.at)
    fold.joins.restore(saved.joins, saved.seen, saved.at.number)
    fold.keys.restore(saved.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows of one commit, built before it: the fold continues while the commit runs."""

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
        """Return the rows that have changed since the last call, or all rows."""
        name, at, by_uid, accepted_us = fold.spec.endpoint, fold.progress.position, fold.joins.by_uid, fold.joins.seen
        changed, keys = fold.joins.take_changed(), fold.keys.take_unsaved()
        joins, seen = changed.joins, changed.seen
        if whole:
            joins, seen = set(by_uid), set(accepted_us)
            keys = [(kind, key) for kind, some in fold.keys.by_kind.items() for key in some]
        document = orjson.dumps({**document_of(fold), "last": digest(fold.progress.last_body)})
        return cls(
            endpoint=name,
            head=(name, fold.spec.experiment, at.offset, at.number, at.at_us, document),
            joins=[(name, uid, orjson.dumps(write_join(by_uid[uid]))) for uid in joins if uid in by_uid],
            seen=[(name, uid, accepted_us[uid]) for uid in seen if uid in accepted_us],
            keys=[(name, kind, key) for kind, key in keys],
            gone_joins=[(name, uid) for uid in joins if uid not in by_uid],
            gone_seen=[(name, uid) for uid in seen if uid not in accepted_us],
            whole=whole,
        )


def _check(connection: Connection) -> None:
    """Raise Damaged, or the database's error, if a file that could be opened cannot be used."""
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
            run(connection, f"DELETE FROM {table} WHERE endpoint = ?", (rows.endpoint,))  # noqa: S608 - the table names are constants
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
    for kind, digest in fetch_all(connection, "SELECT what, digest FROM keys WHERE endpoint = ?", (endpoint,)):
        keys.setdefault(kind, set()).add(digest)
    document = orjson.loads(head[3])
    return SavedState(
        at=LogPosition(offset=head[0], number=head[1], at_us=head[2]),
        last=document["last"],
        document=document,
        joins={uid: orjson.loads(data) for uid, data in joins},
        seen=dict(seen),
        keys=keys,
    )
