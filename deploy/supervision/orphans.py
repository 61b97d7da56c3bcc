"""Waits for orphans: parts of an earlier `millrace up` that still run, found by their command lines.

Orphans hold ports and deliveries. Each stops by itself once its parent is gone, unless it hangs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from broker.errors import Misconfigured, Unavailable
from deploy.processes.command import MODULE, read_command
from deploy.wiring import Installation

logger = logging.getLogger(__name__)

EVERY_S = 0.2
MARGIN_S = 2.0  # added to the grace: a part checks its parent every second


@dataclass(frozen=True, slots=True)
class Orphan:
    """A part without a parent: its pid, and its part or `replica MODEL VERSION`."""

    pid: int
    words: str

    def __str__(self) -> str:
        return f"{self.words} (process {self.pid})"


async def wait_for_orphans(installation: Installation, stop: asyncio.Event) -> None:
    """Wait until no part of an earlier supervisor runs; raises Unavailable, naming those that do not stop in time."""
    limit_s = installation.grace_s + MARGIN_S
    until = time.monotonic() + limit_s
    is_logged = False
    while not stop.is_set() and (orphans := await asyncio.to_thread(find_orphans, installation.path)):
        names = ", ".join(map(str, orphans))
        if time.monotonic() > until:
            raise Unavailable(
                f"parts of an earlier millrace up of {installation.path} did not stop within {limit_s:.0f} s: {names}; "
                f"end them with `kill -9 {' '.join(str(orphan.pid) for orphan in orphans)}`, then start again"
            )
        if not is_logged:
            logger.warning("waiting up to %.0f s until parts of an earlier millrace up stop: %s", limit_s, names)
            is_logged = True
        await asyncio.sleep(EVERY_S)


def find_orphans(settings: Path) -> list[Orphan]:
    """List the parts of the installation with these settings whose parent is gone."""
    return [
        orphan
        for process in psutil.process_iter(["pid", "ppid", "cmdline"])
        if (orphan := _orphan(process.info, settings)) is not None
    ]


def _orphan(info: dict[str, object], settings: Path) -> Orphan | None:
    words, pid, parent = info["cmdline"], info["pid"], info["ppid"]
    if not isinstance(words, list) or not isinstance(pid, int) or MODULE not in words:
        return None
    try:
        command = read_command(words[words.index(MODULE) + 1 :])
    except Misconfigured:
        return None
    if command.settings != settings or command.parent in (None, parent):
        return None
    return Orphan(pid, " ".join(command.words))
