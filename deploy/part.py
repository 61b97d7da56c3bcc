"""`python -P -m deploy.part [--parent PID] SETTINGS PART`: how the supervisor and the process engine start processes.

A replica is `replica MODEL VERSION`. `--parent` is the process that starts it: it stops when that one is gone. Without
it, the parent is looked up, which is late by the time that imports take.
"""

from __future__ import annotations

import os
import sys

from deploy.command import read_command
from deploy.wiring import PARTS, Installation


def main(words: list[str]) -> int:
    """Run one part until it is stopped."""
    command = read_command(words)
    parent = os.getppid() if command.parent is None else command.parent
    installation = Installation.at(command.settings)
    part, *rest = command.words
    if part == "replica":
        model, version = rest
        return installation.run_replica(model, int(version), parent=parent)
    if part not in PARTS:
        sys.stderr.write(f"part {part!r}: known parts are {', '.join(PARTS)} and replica\n")
        return 2
    return installation.run(part, parent=parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
