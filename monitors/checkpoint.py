"""The position of a monitor in a log, in a small JSON file that is replaced atomically."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from broker.support.private_files import make_private_folder, open_private

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorCheckpoint:
    """Records before `offset` are counted; a new process reads again from `rebuild_from` to rebuild its state.

    `rows` is the number of rows that were counted so far, each row once.
    """

    offset: int
    rebuild_from: int
    rows: int


def load(path: Path) -> MonitorCheckpoint | None:
    """Return the checkpoint in a file, or None if there is none or it cannot be read."""
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
    """Write a checkpoint; after a crash the file holds either the old one or the new one."""
    make_private_folder(path.parent)
    draft = path.with_suffix(".part")
    with os.fdopen(open_private(draft, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(orjson.dumps({"v": VERSION, **asdict(checkpoint)}))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
