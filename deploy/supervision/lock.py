"""Allows one `millrace up` for each data folder, by a file lock that the kernel releases when the process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import Misconfigured, Unavailable
from broker.support.private_files import make_private_folder, open_private

FILE = "up.lock"
_PID_BYTES = 20


@contextmanager
def the_only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder.

    The file is not removed: two processes could otherwise lock two files of the same name.

    Raises:
        Unavailable: another process holds the lock; the text has its pid.
        Misconfigured: the folder is not writable.
    """
    try:
        make_private_folder(folder)
        file = open_private(folder / FILE, os.O_RDWR)
    except OSError as exc:
        raise Misconfigured(f"{folder} is not writable ({exc.strerror}): is data right?") from exc
    try:
        _lock(file, folder)
        yield
    finally:
        os.close(file)


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        pid = os.pread(file, _PID_BYTES, 0).decode("ascii", "replace").strip() or "that has just started"
        raise Unavailable(
            f"process {pid} runs millrace up on {folder} already: stop it first, or set data to another folder"
        ) from exc
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
