"""Learners are killed at random records and within commits; the last state must equal that of an uninterrupted one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.science.gates import Row

KILLS = 667
NAMES = ("thompson", "exp3", "canary")


def kills() -> Iterator[Row]:
    """Kill 2,000 learners in all, in other processes, because a process that forks must have no threads."""
    for name in NAMES:
        command = [sys.executable, "-m", "tests.router.learning.killed_learners", str(KILLS), "2", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=900)
        counts = json.loads(done.stdout)[name]
        shown = f"{counts['different']} of {counts['traces']}"
        yield Row(f"{name}: traces that end in other bytes", shown, "0", "0", counts["different"] == 0)
        hit = f"{counts['before the end']} of {counts['kills']}"
        yield Row(f"{name}: kills before the end", hit, "all", "all", counts["before the end"] == counts["kills"])
        yield Row(f"{name}: kills within a commit", str(counts["within a commit"]), "")
        yield Row(f"{name}: records folded again", str(counts["folded again"]), "")
