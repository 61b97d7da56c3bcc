"""Where a monitor stands in a log, in a small JSON file that is whole or not there."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from broker.support.private_files import make_private_folder, open_private

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorCheckpoint:
    """Everything before `offset` is folded; to know what was seen, read again from `rebuild_from`.

    `rows` is how many rows have ever been counted: the fold of the log before `offset`, each row once.
    """

    offset: int
    rebuild_from: int
    rows: int


def load(path: Path) -> MonitorCheckpoint | None:
    """Return the checkpoint in a file; None if there is none that can be read, so the monitor starts anew."""
    try:
        data = orjson.loads(path.read_bytes())
        if data.pop("v") != VERSION:
            return None
        found = MonitorCheckpoint(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    numbers = (found.rebuild_from, found.offset, found.rows)
    return found if all(type(number) is int and number >= 0 for number in numbers) else None


def save(path: Path, checkpoint: MonitorCheckpoint) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one."""
    make_private_folder(path.parent)
    half = path.with_suffix(".part")
    with os.fdopen(open_private(half, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(orjson.dumps({"v": VERSION, **asdict(checkpoint)}))
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
