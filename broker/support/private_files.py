"""Files and folders for their owner alone: what lies in a data folder is payloads and keys."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

FOLDER = 0o700
FILE = 0o600
_OTHERS = 0o077


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing. One that is there stays as it is: it may be shared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=FOLDER, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file, and make it if it is not there; returns its descriptor.

    Not for SQLite's: a process that closes a descriptor of such a file loses all its locks on it.
    """
    descriptor = os.open(path, flags | os.O_CREAT, FILE)
    make_private(path)
    return descriptor


def make_private(path: Path) -> None:
    """Take a file of ours from everybody else; one that is not there, or is somebody else's, stays as it is."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        found = path.stat()
        if found.st_mode & _OTHERS and found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode):
            path.chmod(FILE)
