"""The command line of a part: the supervisor and the process engine write it, `deploy.part` reads it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Misconfigured

MODULE = "deploy.part"
PARENT = "--parent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCommand:
    """The parent's pid, the settings file, and the words: PART, or `replica MODEL VERSION`.

    `parent` is None for a part that was started by hand.
    """

    parent: int | None
    settings: Path
    words: Sequence[str]


def command_line(command: PartCommand) -> list[str]:
    """Build the command line.

    The safe-path mode (`-P`) keeps files in the user's folder from shadowing our modules or those of a library.
    """
    parent = [] if command.parent is None else [PARENT, str(command.parent)]
    return [sys.executable, "-P", "-m", MODULE, *parent, str(command.settings), *command.words]


def read_command(words: Sequence[str]) -> PartCommand:
    """Parse the words after the module's name; raises Misconfigured."""
    parent = None
    if words[:1] == [PARENT] and len(words) > 1 and words[1].isdecimal():
        parent, words = int(words[1]), words[2:]
    if len(words) < 2:
        raise Misconfigured(f"{MODULE}: write [{PARENT} PID] SETTINGS PART, or … replica MODEL VERSION")
    return PartCommand(parent=parent, settings=Path(words[0]), words=words[1:])
