"""`python -m deploy.part SETTINGS PART [MODEL VERSION]`: how the supervisor and the process engine start processes."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.wiring import PARTS, Installation


def main(words: list[str]) -> int:
    """Run one part until it is stopped."""
    path, part, *rest = words
    installation = Installation.at(Path(path))
    if part == "replica":
        model, version = rest
        return installation.run_replica(model, int(version))
    if part not in PARTS:
        sys.stderr.write(f"part {part!r}: known parts are {', '.join(PARTS)} and replica\n")
        return 2
    return installation.run(part, with_parent=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
