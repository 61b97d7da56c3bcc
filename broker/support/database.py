"""A SQLite file and the one thread that uses it: jobs that arrive during a commit share the next one.

Writers take the write lock at once (`BEGIN IMMEDIATE`): a lock that is upgraded later can fail in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import apsw

from broker.errors import Damaged, DiskFull, Locked, MillraceError, Misconfigured, Unreachable
from broker.support.busy_handler import BUSY_PAUSE_S, BUSY_S, BusyHandler
from broker.support.private_files import make_private, make_private_folder

logger = logging.getLogger(__name__)

GROUP = 256
CHECK_EVERY_S = 0.5  # between checks that the path still has the same file
FIRST_SAFE_SQLITE = 3_051_003  # before it, checkpoints by several processes could corrupt the file

Connection: TypeAlias = apsw.Connection
Work: TypeAlias = Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class Schema:
    """The content of a file: its tables and their version.

    `whose` names its user and `setting` the setting with its path, both for error messages.
    """

    whose: str
    setting: str
    version: int
    tables: str


class Durability(IntEnum):
    """The durability that a job needs from its transaction, from least to most."""

    READ = 0
    WRITE = 1  # survives kill -9
    DURABLE = 2  # survives power loss


@dataclass(slots=True)
class _Job:
    work: Work
    durability: Durability
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """A SQLite file that is used from an event loop."""

    def __init__(self, path: Path, schema: Schema, *, on_recreated: Work = lambda _: None) -> None:
        """`on_recreated` runs first, in a transaction, on a file that was made because the old one had been removed."""
        self._path = path
        self._schema = schema
        self._on_recreated = on_recreated
        self._check_at_s = 0.0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = BusyHandler(path)

    @property
    def locked(self) -> str:
        """The error text while another process holds the write lock for too long; otherwise empty."""
        return self._busy.lock_error

    async def open(self) -> None:
        """Open the file, make its tables, and start the thread; raises Unreachable or Misconfigured."""
        self._loop = asyncio.get_running_loop()
        self._connection = await self._loop.run_in_executor(None, _connect, self._path, self._schema, self._busy)
        self._file = _identity(self._path)
        self._synchronous = "FULL"
        self._thread = threading.Thread(target=self._serve, name="millrace-sqlite", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish all jobs, then close the file."""
        if self._thread is None:
            return
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._thread = None

    def run(self, work: Work, durability: Durability) -> asyncio.Future[Any]:
        """Run `work` on the connection, in a transaction that it may share; it may be run again after a rollback.

        The future gets its result, or its error; for errors of SQLite one of the `Unreachable` tree.
        """
        future = self._loop.create_future()
        if self._thread is None:
            future.set_exception(Unreachable(f"{self._path}: {self._schema.whose} is closed"))
        else:
            self._jobs.put(_Job(work, durability, future))
        return future

    def _serve(self) -> None:
        while True:
            jobs, last = self._collect()
            if jobs and self._is_usable(jobs):
                self._do(jobs)
            self._deliver(jobs)
            if last:
                self._connection.close()
                return

    def _do(self, jobs: list[_Job]) -> None:
        writes = [job for job in jobs if job.durability is not Durability.READ]
        if writes:
            self._commit(writes)
        for job in jobs:
            if job.durability is Durability.READ:
                self._read(job)

    def _collect(self) -> tuple[list[_Job], bool]:
        job = self._jobs.get()
        jobs: list[_Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) == GROUP:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _is_usable(self, jobs: list[_Job]) -> bool:
        """Continue with a new file if ours was removed; if none can be made, all jobs get the error.

        A removed file stays usable for the processes that have it open, but no process that starts later sees it.
        """
        now = time.monotonic()
        if now < self._check_at_s:
            return True
        if _identity(self._path) != self._file:
            logger.error("%s was removed while it was in use: its content is lost, and it is made again", self._path)
            try:
                self._recreate()
            except Exception as exc:  # noqa: BLE001 - the callers get the error, and the thread tries again
                for job in jobs:
                    job.error = _translated(exc, self._path)
                return False
        self._check_at_s = now + CHECK_EVERY_S
        return True

    def _recreate(self) -> None:
        self._connection.close()
        self._connection = _connect(self._path, self._schema, self._busy)
        self._synchronous = "FULL"
        self._connection.execute("BEGIN IMMEDIATE")
        self._on_recreated(self._connection)
        self._connection.execute("COMMIT")
        self._file = _identity(self._path)

    def _commit(self, jobs: list[_Job]) -> None:
        """Commit all jobs at once; if that fails, each on its own, so that only the failing job gets the error."""
        if self._transaction(jobs) or len(jobs) == 1 or isinstance(jobs[0].error, Locked):
            return
        for job in jobs:
            job.error = None
            self._transaction([job])

    def _transaction(self, jobs: list[_Job]) -> bool:
        try:
            self._set_durability(max(job.durability for job in jobs))
            self._connection.execute("BEGIN IMMEDIATE")
            self._busy.note_free()
            for job in jobs:
                job.result = job.work(self._connection)
            self._connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001 - the caller gets any error of its job, and the thread continues
            with contextlib.suppress(apsw.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            for job in jobs:
                job.error = _translated(exc, self._path, self._busy.lock_error)
            return False
        return True

    def _set_durability(self, durability: Durability) -> None:
        wanted = "FULL" if durability is Durability.DURABLE else "NORMAL"
        if wanted != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted

    def _read(self, job: _Job) -> None:
        try:
            job.result = job.work(self._connection)
        except Exception as exc:  # noqa: BLE001 - as above
            job.error = _translated(exc, self._path)

    def _deliver(self, jobs: list[_Job]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:  # the loop is closed: no caller waits
            return


def fetch_all(connection: Connection, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
    """Return all rows of a statement. Their column types follow from the schema, not from the type checker."""
    return connection.execute(sql, bindings).fetchall()


def fetch_one(connection: Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Any:
    """Return the first row of a statement, or None."""
    return connection.execute(sql, bindings).fetchone()


def run(connection: Connection, sql: str, bindings: tuple[Any, ...] = ()) -> None:
    """Run a statement that returns no rows."""
    connection.execute(sql, bindings)


def run_many(connection: Connection, sql: str, bindings: Iterable[tuple[Any, ...]]) -> None:
    """Run a statement once for each tuple of bindings."""
    connection.executemany(sql, bindings)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a file; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_DAMAGED = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError)  # the last: the tables are not those of Millrace


def _translated(error: Exception, path: Path, locked: str = "") -> Exception:
    if isinstance(error, apsw.BusyError) and locked:
        named = Locked(locked)
        named.__cause__ = error
        return named
    if isinstance(error, apsw.Error):
        if isinstance(error, apsw.FullError):
            translated: MillraceError = DiskFull(f"{path} cannot be written: the disk is full")
        else:
            kind = Damaged if isinstance(error, _DAMAGED) else Unreachable
            translated = kind(f"{path}: SQLite reports {type(error).__name__}: {error}{_way_out(path, kind)}")
        translated.__cause__ = error
        return translated
    return error


def _way_out(path: Path, kind: type[Unreachable]) -> str:
    if kind is not Damaged:
        return ""
    files = ", ".join(f"{path.name}{rest}" for rest in ("", "-wal", "-shm"))
    return f". It is damaged or not a file of Millrace: stop its processes, move {files} away, and start again"


def _connect(path: Path, schema: Schema, busy: BusyHandler) -> Connection:
    if apsw.SQLITE_VERSION_NUMBER < FIRST_SAFE_SQLITE:
        raise Misconfigured(f"apsw carries SQLite {apsw.sqlite_lib_version()}; 3.51.3 or newer is needed")
    try:
        make_private_folder(path.parent)
        connection = _open(path, busy)
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):  # SQLite makes the other two like the first
            make_private(path.with_name(name))
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA cache_size=-32768")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("BEGIN IMMEDIATE")
        _migrate(connection, path, schema)
        connection.execute("COMMIT")
        busy.note_free()
    except apsw.BusyError as exc:
        raise Locked(f"{schema.whose} cannot use {path}: {busy.lock_error or exc}") from exc
    except (apsw.Error, OSError) as exc:
        kind = Damaged if isinstance(exc, _DAMAGED) else Unreachable
        hint = _way_out(path, kind) or f"; is {schema.setting} right?"
        raise kind(f"{schema.whose} cannot use {path}: {exc}{hint}") from exc
    return connection


def _open(path: Path, busy: BusyHandler) -> Connection:
    """Open a file, and make it if it does not exist.

    First removes the `-wal` and `-shm` files of a removed database, because SQLite would read them into the new one.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
        connection = apsw.Connection(str(path))
        connection.set_busy_handler(busy.wait)
        connection.execute("PRAGMA user_version")  # makes the file
    finally:
        os.close(folder)
    return connection


def _write_ahead(connection: Connection) -> None:
    """Switch the file to WAL mode.

    SQLite may return BUSY without calling the busy handler when several processes switch at once.
    """
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(BUSY_PAUSE_S)
        else:
            return


def _migrate(connection: Connection, path: Path, schema: Schema) -> None:
    found = fetch_one(connection, "PRAGMA user_version")[0]
    if found not in (0, schema.version):
        raise Misconfigured(
            f"{path} was written by another version of Millrace (schema {found}, this one reads {schema.version})"
        )
    connection.execute(schema.tables)
    connection.execute(f"PRAGMA user_version={schema.version}")
