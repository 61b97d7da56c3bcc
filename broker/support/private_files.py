"""Files and folders that only their owner can read: a data folder has payloads and keys in it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FOLDER = 0o700
FILE = 0o600
_OTHERS = 0o077


def make_private_folder(path: Path) -> None:
    """Make a folder and its missing parents. An existing folder keeps its mode: it may be shared on purpose."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=FOLDER, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file, making it if it does not exist; return its descriptor.

    Not for SQLite files: a process that closes a descriptor of such a file loses all its locks on it.
    """
    descriptor = os.open(path, flags | os.O_CREAT, FILE)
    make_private(path)
    return descriptor


def make_private(path: Path) -> None:
    """Remove the access of other users from a file of ours; a missing file, or one of another owner, stays as it is."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        found = path.stat()
        if found.st_mode & _OTHERS and found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode):
            path.chmod(FILE)
