"""Who owns what was taken: a kernel file lock a process. Death frees it at once, whatever killed the process."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from broker.sqlite.schema import READY
from broker.support.database import Connection, fetch_all, fetch_one
from broker.support.private_files import make_private_folder, open_private

MISSING_S = 5.0  # so long a process has to make its lock file again, which somebody has removed


class Ownership:
    """This process's entry in `owners`, and the lock file that proves it alive."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(database.name + ".owners")
        self._file: int | None = None
        self._missing_since: dict[int, float] = {}
        self.id = 0

    def claim(self, connection: Connection, port: int) -> int:
        """Enter `owners` and lock the file of that number. Runs inside a transaction."""
        self.id = fetch_one(connection, "INSERT INTO owners (port) VALUES (?) RETURNING id", (port,))[0]
        self._lock()
        return self.id

    def is_whole(self, connection: Connection) -> bool:
        """Tell whether this process's entry and its lock file are still there."""
        return self._has_file() and fetch_one(connection, "SELECT 1 FROM owners WHERE id = ?", (self.id,)) is not None

    def restore(self, connection: Connection, port: int) -> None:
        """Make this process's entry and its lock file again: they were removed. Runs inside a transaction."""
        connection.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", (self.id, port))
        if not self._has_file():
            lost, self._file = self._file, None
            self._lock()
            if lost is not None:
                os.close(lost)

    def _lock(self) -> None:
        make_private_folder(self._folder)
        self._file = open_private(self._path(self.id), os.O_RDWR)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # free, or just being looked at by another process

    def _has_file(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self._path(self.id).stat()
        except OSError:
            return False
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def bury_the_dead(self, connection: Connection) -> list[str]:
        """Give back what dead processes held; returns the channels that have something again."""
        woken: set[str] = set()
        for (other,) in fetch_all(connection, "SELECT id FROM owners WHERE id <> ?", (self.id,)):
            if self._is_dead(other):
                woken.update(release(connection, other))
                self._path(other).unlink(missing_ok=True)
        return sorted(woken)

    def any_dead(self, connection: Connection) -> bool:
        """Look for dead owners without taking the write lock."""
        others = fetch_all(connection, "SELECT id FROM owners WHERE id <> ?", (self.id,))
        return any(self._is_dead(other) for (other,) in others)

    def leave(self, connection: Connection) -> list[str]:
        """Give back what this process still holds, and go."""
        return release(connection, self.id)

    def unlock(self) -> None:
        """Let the lock file go, once `leave` is committed."""
        if self._file is not None:
            self._path(self.id).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _path(self, owner: int) -> Path:
        return self._folder / f"{owner}.lock"

    def _is_dead(self, owner: int) -> bool:
        try:
            file = os.open(self._path(owner), os.O_RDWR)
        except FileNotFoundError:  # removed by somebody: a living process makes it again
            since = self._missing_since.setdefault(owner, time.monotonic())
            return time.monotonic() - since > MISSING_S
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
    """Make everything of `owner` ready again, as messages that came back; drop its transient queues."""
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
    """Remove a channel and all that is in it."""
    connection.execute("DELETE FROM payload WHERE id IN (SELECT id FROM waiting WHERE channel = ?)", (channel,))
    connection.execute("DELETE FROM waiting WHERE channel = ?", (channel,))
    connection.execute("DELETE FROM records WHERE channel = ?", (channel,))
    connection.execute("DELETE FROM channels WHERE id = ?", (channel,))
