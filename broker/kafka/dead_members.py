"""Finds dead members of a group, so that the next process that joins on their machine can remove them.

Kafka itself waits for a session timeout before it gives their partitions to others. A process that is stopped or busy
is alive and stays a member. Nothing is known about processes on other machines or in other containers. A consumer that
was stopped while it was joining its group is dead too, although its process is alive: it can no longer leave the group.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from functools import lru_cache
from itertools import count
from pathlib import Path

PROC = Path("/proc")
_NAME = re.compile(r"millrace-([0-9a-f]{16})-([0-9]{1,10})-([0-9]{1,20})-[0-9]+")
_STATE, _STARTED = 0, 19  # indexes after the name in a process's `stat`; proc(5) counts them as 3 and 22
_ENDED = ("Z", "X")
_numbers = count(1)
_living: set[str] = set()  # the consumers of this process


def enter(*, proc: Path = PROC) -> str:
    """Return the client id of a new consumer; plain `millrace` if this process cannot be identified."""
    machine, found = here(proc), _stat(proc, os.getpid())
    if machine is None or found is None:
        return "millrace"
    name = f"millrace-{machine}-{os.getpid()}-{found[_STARTED]}-{next(_numbers)}"
    _living.add(name)
    return name


def leave(name: str) -> None:
    """Note that a consumer was stopped."""
    _living.discard(name)


def is_dead(name: str, *, proc: Path = PROC) -> bool:
    """Return True if a member ran on this machine and has ended; False if that is not certain."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] != here(proc):
        return False
    pid, started = int(match[2]), match[3]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # a process of another user, and so alive
        return False
    found = _stat(proc, pid)
    if found is None:
        return False
    if found[_STARTED] != started or found[_STATE] in _ENDED:
        return True
    return pid == os.getpid() and name not in _living


@lru_cache(maxsize=1)
def here(proc: Path) -> str | None:
    """Return an id of this machine since its boot, and of the pid and time namespaces in it.

    None if `proc` has other process ids than this process, as in a container with its host's `/proc`.
    """
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        spaces = [(proc / "self/ns" / kind).readlink() for kind in ("pid", "time")]
        numbered = (proc / "self").readlink()
    except (OSError, ValueError):
        return None
    if str(numbered) != str(os.getpid()):
        return None
    text = " ".join([socket.gethostname(), boot, *map(str, spaces)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _stat(proc: Path, pid: int) -> list[str] | None:
    """Return the fields after a process's name in `<proc>/<pid>/stat`; the name itself may have any characters."""
    try:
        text = (proc / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
