"""Finds the process that holds the write lock of a SQLite file in WAL mode, so that a person can end it."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path

# From SQLite's file format: the byte of the file `-shm` that a writer locks.
_WRITE_LOCK = 120
_LINUX = "@hhqqi4x"  # struct flock: type, whence, start, length, pid
_BSD = "@qqihh"  # start, length, pid, type, whence

_opened: dict[tuple[int, int], int] = {}
"""A descriptor for each file. They stay open: closing one would drop all locks of this process on its file."""


def lock_holder(path: Path) -> str:
    """Return `process 17 (replica hello 1)` for the process that holds the write lock of the database at `path`."""
    try:
        pid = _pid_of_lock(_descriptor(path.with_name(f"{path.name}-shm")))
    except OSError:
        pid = 0
    if not pid:
        return "an unknown process"
    part = _part(pid)
    return f"process {pid} ({part})" if part else f"process {pid}"


def _descriptor(path: Path) -> int:
    found = path.stat()
    key = found.st_dev, found.st_ino
    if key not in _opened:
        _opened[key] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return _opened[key]


def _pid_of_lock(descriptor: int) -> int:
    """Return the pid of the process that a lock by this process would wait for; 0 if there is none."""
    if sys.platform == "linux":
        request = struct.pack(_LINUX, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
        kind, _, _, _, pid = struct.unpack(_LINUX, fcntl.fcntl(descriptor, fcntl.F_GETLK, request))
    else:
        request = struct.pack(_BSD, _WRITE_LOCK, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = struct.unpack(_BSD, fcntl.fcntl(descriptor, fcntl.F_GETLK, request))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _part(pid: int) -> str:
    """Return a process's role from its command line: the words after the settings file, or the last two words."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return ""
    start = next((at + 1 for at, word in enumerate(words) if word.endswith((".yaml", ".yml"))), -2)
    return " ".join([Path(word).name for word in words[start:]])[:80]
