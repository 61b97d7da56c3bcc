"""A learner that is killed at any record, or within a commit, is followed by one that ends in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.messages import Record
from broker.records.routing import LearnerCheckpoint, read_checkpoint, write_checkpoint
from router.learning.fold import ExperimentFold
from router.learning.fold_document import canonical, checkpoint_of, resume
from router.learning.ledger import Ledger, restore_saved
from tests.router.learning.fold_logs import EXPERIMENTS, log_of
from tests.router.learning.killed_learners import KILLS_A_TRACE
from tests.router.learning.traces import folded, spec_of

NAMES = ("thompson", "exp3", "canary")


def test_200_learners_are_killed_and_nothing_is_lost_or_learnt_twice() -> None:
    """P6. In a process of its own: a process that forks must not have threads."""
    command = [sys.executable, "-m", "tests.router.learning.killed_learners", str(KILLS_A_TRACE), "1", *NAMES]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], timeout=110)
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    for name, counts in found.items():
        print(f"{name}: {counts}")  # noqa: T201 - so that a reader sees that the kills have hit
        assert counts["different"] == 0
        assert counts["kills"] == counts["before the end"] == KILLS_A_TRACE
        assert counts["lost some"] > KILLS_A_TRACE // 2  # records that were folded but not committed are folded again
        assert counts["within a commit"] > KILLS_A_TRACE // 10


@pytest.mark.parametrize("name", EXPERIMENTS)
async def test_a_successor_that_dies_while_it_rebuilds_joins_counts_nothing_twice(name: str, tmp_path: Path) -> None:
    """It has only the checkpoint; its own ledger is written while statistics are still off."""
    experiment, records = EXPERIMENTS[name], log_of(name)
    whole = folded(experiment, records)
    for cut, again in _places(len(records)):
        read = _checkpoint(folded(experiment, records[:cut]))
        assert read.rebuild.offset < cut
        died: ExperimentFold[Any] = ExperimentFold(spec_of(), experiment)
        resume(died, read)
        for record in records[read.rebuild.offset : read.rebuild.offset + int(again * (cut - read.rebuild.offset))]:
            died.apply(record)
        ledger = Ledger(tmp_path / f"{cut}.db")
        await ledger.open()
        await ledger.lead(1)
        await ledger.save(died, whole=True)
        saved = await ledger.load("e", "x")
        assert saved is not None
        third: ExperimentFold[Any] = ExperimentFold(spec_of(), experiment)
        restore_saved(third, saved)
        if again > 0.7:
            resume(third, _checkpoint(third))  # a checkpoint written meanwhile has the same state
        for record in records[third.progress.offset :]:
            third.apply(record)
        assert canonical(third) == canonical(whole), (cut, again)
        await ledger.close()


def _places(end: int) -> Iterator[tuple[int, float]]:
    random = np.random.default_rng(5)
    for cut in random.integers(end // 2, end, 8):
        yield int(cut), float(random.random())


def _checkpoint(fold: ExperimentFold[Any]) -> LearnerCheckpoint:
    body, headers = write_checkpoint(checkpoint_of(fold))
    read = read_checkpoint(Record(0, body, headers))
    assert read is not None
    return read
