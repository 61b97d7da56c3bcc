"""A process that holds the write lock of a SQLite file until it is killed, like one that hangs in a commit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLDS = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
WORDS = ("millrace.yaml", "replica", "fraud", "7")


def shorten_lock_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all waits for locks in this process."""
    for name, seconds in (("BUSY_S", 0.3), ("KNOWN_BUSY_S", 0.1), ("REPORT_AFTER_S", 0.1)):
        monkeypatch.setattr(f"broker.support.busy_handler.{name}", seconds)


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Hold the lock from a process that looks like a replica; yields its pid."""
    command = [sys.executable, "-c", HOLDS, str(path), *WORDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()
