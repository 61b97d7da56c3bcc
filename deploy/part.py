"""`python -P -m deploy.part [--parent PID] SETTINGS PART`: how the supervisor and the process engine start processes.

PART is a part's name, or `replica MODEL VERSION`. PID is the process that starts the part: the part stops when that
process is gone. Without `--parent` the part looks its parent up, after its imports.
"""

from __future__ import annotations

import logging
import os
import sys

from broker.errors import Misconfigured
from deploy.mains import run_installed_part, run_replica
from deploy.processes.command import read_command
from deploy.processes.shell import MISCONFIGURED, write_logs
from deploy.processes.streams import open_standard_streams
from deploy.wiring import PARTS, Installation


def main(words: list[str]) -> int:
    """Run one part until it is stopped and return the exit status; wrong settings are logged without a traceback."""
    open_standard_streams()
    try:
        return run(words)
    except Misconfigured as exc:
        write_logs("part")
        logging.getLogger("millrace").error("%s", exc)  # noqa: TRY400 - wrong settings need no traceback
        return MISCONFIGURED


def run(words: list[str]) -> int:
    """Run the part that a command line names and return the exit status; raises Misconfigured."""
    command = read_command(words)
    parent = os.getppid() if command.parent is None else command.parent
    installation = Installation.at(command.settings)
    part, *rest = command.words
    if part == "replica":
        model, version = rest
        return run_replica(installation, model, int(version), parent=parent)
    if part not in PARTS:
        raise Misconfigured(f"part {part!r}: known parts are {', '.join(PARTS)} and replica")
    return run_installed_part(installation, part, parent=parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
