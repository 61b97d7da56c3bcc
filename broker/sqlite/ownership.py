"""The owners of taken messages: one kernel file lock for each process, which its death frees at once."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from broker.sqlite.schema import READY
from broker.support.database import Connection, fetch_all, fetch_one
from broker.support.private_files import make_private_folder, open_private

MISSING_S = 5.0  # a living process makes a removed lock file again within this time


class Ownership:
    """This process's entry in `owners`, and the lock file that proves it alive."""

    def __init__(self, database: Path, *, missing_s: float = MISSING_S) -> None:
        """An owner whose lock file is missing for `missing_s` is dead."""
        self._missing_s = missing_s
        self._folder = database.with_name(database.name + ".owners")
        self._file: int | None = None
        self._missing_since: dict[int, float] = {}
        self.id = 0

    def claim(self, connection: Connection, port: int) -> int:
        """Insert a row into `owners`, and lock the file of its id; return the id. Runs inside a transaction."""
        self.id = fetch_one(connection, "INSERT INTO owners (port) VALUES (?) RETURNING id", (port,))[0]
        self._lock()
        return self.id

    def is_whole(self, connection: Connection) -> bool:
        """Return True if this process's entry and its lock file still exist."""
        return self._has_file() and fetch_one(connection, "SELECT 1 FROM owners WHERE id = ?", (self.id,)) is not None

    def restore(self, connection: Connection, port: int) -> None:
        """Make this process's removed entry and lock file again. Runs inside a transaction."""
        connection.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", (self.id, port))
        if not self._has_file():
            lost, self._file = self._file, None
            self._lock()
            if lost is not None:
                os.close(lost)

    def _lock(self) -> None:
        make_private_folder(self._folder)
        self._file = open_private(self._path(self.id), os.O_RDWR)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # it is free, or another process tests it at this moment

    def _has_file(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self._path(self.id).stat()
        except OSError:
            return False
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def reclaim_from_dead_processes(self, connection: Connection) -> list[str]:
        """Give back the messages of dead processes; return the channels whose messages are ready again."""
        woken: set[str] = set()
        for (other,) in fetch_all(connection, "SELECT id FROM owners WHERE id <> ?", (self.id,)):
            if self._is_dead(other):
                woken.update(release(connection, other))
                self._path(other).unlink(missing_ok=True)
        return sorted(woken)

    def any_dead(self, connection: Connection) -> bool:
        """Return True if an owner is dead. Needs no write lock."""
        others = fetch_all(connection, "SELECT id FROM owners WHERE id <> ?", (self.id,))
        return any(self._is_dead(other) for (other,) in others)

    def leave(self, connection: Connection) -> list[str]:
        """Give back the messages that this process holds, and remove its entry; return their channels."""
        return release(connection, self.id)

    def unlock(self) -> None:
        """Remove the lock file; call it after `leave` is committed."""
        if self._file is not None:
            self._path(self.id).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _path(self, owner: int) -> Path:
        return self._folder / f"{owner}.lock"

    def _is_dead(self, owner: int) -> bool:
        try:
            file = os.open(self._path(owner), os.O_RDWR)
        except FileNotFoundError:  # it was removed: a living process makes it again
            since = self._missing_since.setdefault(owner, time.monotonic())
            return time.monotonic() - since > self._missing_s
        self._missing_since.pop(owner, None)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(file)


def release(connection: Connection, owner: int) -> list[str]:
    """Make all messages of `owner` ready again, as ones that came back, and drop its transient queues."""
    names = fetch_all(
        connection,
        "SELECT DISTINCT name FROM channels JOIN waiting ON waiting.channel = channels.id WHERE waiting.owner = ?",
        (owner,),
    )
    connection.execute("UPDATE waiting SET owner = ?, came_back = came_back + 1 WHERE owner = ?", (READY, owner))
    for (channel,) in fetch_all(connection, "SELECT id FROM channels WHERE owner = ?", (owner,)):
        drop_channel(connection, channel)
    connection.execute("DELETE FROM listeners WHERE owner = ?", (owner,))
    connection.execute("DELETE FROM owners WHERE id = ?", (owner,))
    return [name for (name,) in names]


def drop_channel(connection: Connection, channel: int) -> None:
    """Delete a channel with all its messages and records."""
    connection.execute("DELETE FROM payload WHERE id IN (SELECT id FROM waiting WHERE channel = ?)", (channel,))
    connection.execute("DELETE FROM waiting WHERE channel = ?", (channel,))
    connection.execute("DELETE FROM records WHERE channel = ?", (channel,))
    connection.execute("DELETE FROM channels WHERE id = ?", (channel,))
