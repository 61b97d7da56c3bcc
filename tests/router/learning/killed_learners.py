"""Learners that are killed: `python -m tests.router.learning.killed_learners KILLS SEED EXPERIMENT...`.

A trace is folded by one process after the other. Each resumes from the ledger, folds, commits in batches of random
size, and is killed with SIGKILL: by itself after a random record, from outside at a random moment, or from outside
while it commits. The last process writes its state to a file, and the counts are printed. Nothing is imported after a
fork, and no process that forks has threads.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.messages import Record
from router.learning.fold import ExperimentFold
from router.learning.fold_document import canonical
from router.learning.ledger import Ledger, restore_saved
from tests.router.learning.fold_logs import EXPERIMENTS, log_of
from tests.router.learning.traces import folded, spec_of

REQUESTS = 1400  # about 2,000 records
KILLS_A_TRACE = 67
BATCH = 40
HOWS = ("by itself", "from outside", "while it commits")
FOLDED, COMMITTED, COMMITTING = range(3)


class Shared:
    """Three numbers that outlive their process: the offsets folded and committed, and 1 during a commit."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24)

    def __getitem__(self, place: int) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * place)[0])

    def __setitem__(self, place: int, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * place, value)


class Killing:
    """Folds one trace in a folder, as often as it takes, with a process killed every so often."""

    def __init__(self, name: str, records: list[Record], folder: Path, chance: random.Random) -> None:
        self._experiment = EXPERIMENTS[name]
        self._records = records
        self._folder = folder
        self._chance = chance
        self._shared = Shared()
        self.counts: Counter[str] = Counter()

    def run(self, kills: int) -> bytes:
        """Return the state of the last process, after at most `kills` kills."""
        for number in range(kills):
            if self._killed(HOWS[number % len(HOWS)]):
                break
        _, status = os.waitpid(self._fork(-1), 0)
        if status:
            raise RuntimeError(f"the last process ended with status {status}")
        return (self._folder / "known").read_bytes()

    def _killed(self, how: str) -> bool:
        """Start a process and kill it; return True if it came to the end before."""
        shared, begin, end = self._shared, self._shared[COMMITTED], len(self._records)
        if begin == end:  # the last one died behind its last commit: nothing is left to die in
            return True
        reach = min(end, begin + 1 + 2 * end // KILLS_A_TRACE)
        shared[FOLDED] = shared[COMMITTING] = 0
        last = self._chance.randrange(begin, reach)
        pid = self._fork(last if how == HOWS[0] else -1)
        if how != HOWS[0]:
            _wait(lambda: shared[FOLDED] > last and (how == HOWS[1] or shared[COMMITTING] > 0))
            time.sleep(self._chance.random() * 0.001)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"a process ended with status {status}")
            return True
        if shared[COMMITTED] == end:  # it was done already: that is no kill in the middle
            return False
        again = shared[FOLDED] - shared[COMMITTED]
        self.counts.update({"kills": 1, how: 1, "within a commit": shared[COMMITTING]})
        self.counts.update({"before the end": shared[COMMITTED] < end, "folded again": again, "lost some": again > 0})
        return False

    def _fork(self, last: int) -> int:
        if threading.active_count() > 1:
            raise RuntimeError("a process that forks must not have threads")
        pid = os.fork()
        if pid:
            return pid
        try:
            asyncio.run(self._learn(last, random.Random(self._chance.random())))  # noqa: S311 - sizes are no secret
        except BaseException as exc:  # noqa: BLE001 - a child must not go on as its parent
            os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
            os._exit(1)
        os._exit(0)

    async def _learn(self, last: int, chance: random.Random) -> None:
        """Fold from where the ledger is to the end, or die behind record `last`."""
        shared = self._shared
        ledger = Ledger(self._folder / "learner.db")
        await ledger.open()
        await ledger.lead(1)
        fold, found = await self._taken_up(ledger)
        shared[FOLDED] = shared[COMMITTED] = fold.progress.offset
        shared[COMMITTING] = 0
        while fold.progress.offset < len(self._records):
            for record in self._records[fold.progress.offset : fold.progress.offset + chance.randint(1, BATCH)]:
                fold.apply(record)
                shared[FOLDED] = fold.progress.offset
                if record.offset == last:
                    os.kill(os.getpid(), signal.SIGKILL)
            shared[COMMITTING] = 1
            await ledger.save(fold, whole=not found)
            shared[COMMITTED] = fold.progress.offset
            shared[COMMITTING] = 0
            found = True
        again, _ = await self._taken_up(ledger)
        if canonical(again) != canonical(fold):
            raise ValueError("the ledger holds something else than what was folded")
        (self._folder / "known").write_bytes(canonical(fold))
        await ledger.close()

    async def _taken_up(self, ledger: Ledger) -> tuple[ExperimentFold[Any], bool]:
        fold: ExperimentFold[Any] = ExperimentFold(spec_of(), self._experiment)
        saved = await ledger.load(fold.spec.endpoint, fold.spec.experiment)
        if saved is not None:
            restore_saved(fold, saved)
        return fold, saved is not None


def killed(name: str, kills: int, seed: int) -> Counter[str]:
    """Kill processes; return the counts, among them `different`: traces that ended in other bytes."""
    chance, counts = random.Random(seed), Counter[str]()  # noqa: S311 - no secret
    while counts["kills"] < kills:
        records = log_of(name, REQUESTS, seed + counts["traces"])
        expected = canonical(folded(EXPERIMENTS[name], records))
        with tempfile.TemporaryDirectory() as folder:
            killing = Killing(name, records, Path(folder), chance)
            found = killing.run(min(KILLS_A_TRACE, kills - counts["kills"]))
        counts.update(killing.counts)
        counts.update(traces=1, records=len(records), different=int(found != expected))
    return counts


def _wait(what: Callable[[], bool]) -> None:
    """Poll for half a second at most: the process may have ended."""
    began = time.monotonic()
    while not what() and time.monotonic() - began < 0.5:
        time.sleep(0.00005)


if __name__ == "__main__":
    _kills, _seed, *_names = sys.argv[1:]
    sys.stdout.write(json.dumps({name: killed(name, int(_kills), int(_seed)) for name in _names}) + "\n")
