"""The command line of a part, as the supervisor and the process engine write it and a part reads it."""

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
    """Which installation it belongs to, and the words: PART, or replica MODEL VERSION.

    `parent` is the process that starts it; None for one that was started by hand.
    """

    parent: int | None
    settings: Path
    words: Sequence[str]


def command_line(command: PartCommand) -> list[str]:
    """Return the command line.

    In safe-path mode (`-P`): a file of the user's folder must not stand in for a module of ours or of a library.
    """
    parent = [] if command.parent is None else [PARENT, str(command.parent)]
    return [sys.executable, "-P", "-m", MODULE, *parent, str(command.settings), *command.words]


def read_command(words: Sequence[str]) -> PartCommand:
    """Read what stands behind the module's name; raises Misconfigured."""
    parent = None
    if words[:1] == [PARENT] and len(words) > 1 and words[1].isdecimal():
        parent, words = int(words[1]), words[2:]
    if len(words) < 2:
        raise Misconfigured(f"{MODULE}: write [{PARENT} PID] SETTINGS PART, or … replica MODEL VERSION")
    return PartCommand(parent=parent, settings=Path(words[0]), words=words[1:])
