"""Only the leader writes the ledger, and each experiment has its own state in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.learning.fold import ExperimentFold
from router.learning.fold_document import canonical
from router.learning.ledger import LeaderSuperseded, Ledger, SavedState, restore_saved
from tests.router.learning.fold_logs import STAGED, THOMPSON, log_of
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, spec_of, tick


@asynccontextmanager
async def opened(path: Path, term: int) -> AsyncIterator[Ledger]:
    """Open a ledger as the leader of a term."""
    ledger = Ledger(path)
    await ledger.open()
    try:
        await ledger.lead(term)
        yield ledger
    finally:
        await ledger.close()


async def saved_state(ledger: Ledger) -> SavedState:
    found = await ledger.load("e", "x")
    assert found is not None
    return found


def learnt(number: int) -> ExperimentFold[Any]:
    """Return a fold of so many requests, all liked; one more waits."""
    shown = [TracedRequest(number=one, arm="a") for one in range(number)]
    log = [
        rows(shown),
        *[feedback(one, START_US) for one in shown],
        tick(20),
        rows([TracedRequest(number=99, arm="b")]),
    ]
    return folded(THOMPSON, numbered(log))


@pytest.mark.parametrize("whole", [False, True])
async def test_a_former_leader_is_refused_and_changes_nothing(tmp_path: Path, whole: bool) -> None:
    """It was stopped, and goes on as if nothing had happened, with all that it has folded meanwhile."""
    path = tmp_path / "learner.db"
    async with opened(path, 1) as old:
        await old.save(learnt(3))
        async with opened(path, 2) as new:
            await new.save(learnt(5), whole=True)
            before = await saved_state(new)
            with pytest.raises(LeaderSuperseded, match="led by claim 2, this one is 1"):
                await old.save(learnt(7), whole=whole)
            assert await saved_state(new) == before
            await new.save(learnt(6))
            assert (await saved_state(new)).at.offset == learnt(6).progress.offset


async def test_a_learner_without_a_claim_cannot_write(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "learner.db")
    await ledger.open()
    with pytest.raises(LeaderSuperseded, match="led by claim None"):
        await ledger.save(learnt(1))
    assert await ledger.load("e", "x") is None
    await ledger.close()


async def test_the_states_of_other_experiments_and_endpoints_are_separate(tmp_path: Path) -> None:
    async with opened(tmp_path / "learner.db", 1) as ledger:
        await ledger.save(learnt(3))
        assert await ledger.load("e", "another") is None
        assert await ledger.load("another", "x") is None
        other = ExperimentFold(replace(spec_of(), endpoint="another"), THOMPSON)
        await ledger.save(other, whole=True)
        found = await saved_state(ledger)
    assert (set(found.joins), len(found.seen)) == (set(learnt(3).joins.by_uid), 3)


@pytest.mark.parametrize("every", [1, 7, 400])
async def test_a_fold_that_was_saved_bit_by_bit_is_resumed_whole(tmp_path: Path, every: int) -> None:
    """Joins that end, uids that are forgotten and keys that have voted: the ledger has them as the fold has them."""
    fold: ExperimentFold[Any] = ExperimentFold(spec_of(), STAGED)
    async with opened(tmp_path / "learner.db", 1) as ledger:
        for place, record in enumerate(log_of("canary", 120), 1):
            fold.apply(record)
            if place % every == 0:
                await ledger.save(fold)
        await ledger.save(fold)
        found = await saved_state(ledger)
    again: ExperimentFold[Any] = ExperimentFold(spec_of(), STAGED)
    restore_saved(again, found)
    assert (canonical(again), again.progress.offset) == (canonical(fold), fold.progress.offset)
    assert again.keys.by_kind
    assert again.joins.seen == fold.joins.seen
