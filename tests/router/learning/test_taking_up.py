"""Where a learner begins: from its ledger if that fits the log, and it says nothing before it has caught up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from broker.channels import Channels
from broker.following import Following
from broker.messages import Record
from broker.routing import Said, read_snapshot
from broker.sqlite.adapter import SqliteBroker
from router.learning import endpoint
from router.learning.endpoint import EndpointLearner, LearnerSettings
from router.learning.fold import Fold
from router.learning.ledger import Ledger
from router.learning.metrics import LearnerMetrics
from router.stats.arrays import ONE
from tests.router.learning.test_fold import EXP3, THOMPSON
from tests.router.learning.traces import Shown, folded, numbered, rows, subject_of, tick, trace

WITHIN_S = 5.0
NO_TICKS_S = 3600.0
LOG = numbered([rows([Shown(number=1, arm="a")]), tick(20)])


@dataclass
class Bench:
    """A broker, a ledger, and what learners have said."""

    broker: SqliteBroker
    ledger: Ledger
    heard: list[Said] = field(default_factory=list)

    def hear(self, record: Record) -> None:
        said = read_snapshot(record)
        self.heard += [] if said is None else [said]

    async def append(self, records: Sequence[Record]) -> None:
        log = self.broker.channels.events("e")
        await self.broker.declare(log)
        for record in records:
            await self.broker.append(log, [record.body], dict(record.headers))

    @asynccontextmanager
    async def learning(self) -> AsyncIterator[EndpointLearner]:
        """Run a learner whose clock stands still."""
        settings = LearnerSettings(instance="learner", tick_s=NO_TICKS_S)
        metrics = LearnerMetrics(CollectorRegistry())
        learner = EndpointLearner(self.broker, self.ledger, subject_of(), THOMPSON, settings, metrics, 1)
        tasks = [
            asyncio.create_task(learner.run()),
            asyncio.create_task(Following(self.broker, self.broker.channels.status, 0, self.hear).run()),
        ]
        try:
            yield learner
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        ledger = Ledger(tmp_path / "learner.db")
        await ledger.open()
        await ledger.lead(1)
        await broker.declare(broker.channels.status)
        yield Bench(broker, ledger)
        await ledger.close()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():  # noqa: ASYNC110 - it is a fold of a log that is waited for
            await asyncio.sleep(0.01)


def elsewhere(offset: int) -> Fold[Any]:
    """Return a fold of another log with the same experiment, which ends there: `b` was shown, twice."""
    fold = folded(THOMPSON, numbered([rows([Shown(number=number, arm="b") for number in (1, 2)]), tick(20)]))
    fold.offset = offset
    return fold


async def test_a_learner_says_nothing_before_it_knows_what_the_last_one_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads one record at a time; routers would go back to weights of long ago, and a canary to its first step."""
    monkeypatch.setattr(endpoint, "READ_AT_ONCE", 1)
    log = trace(60, 1, quiet=25)
    await bench.append(log)
    newest = folded(THOMPSON, log).snapshot
    assert newest.number > 0
    async with bench.learning() as learner:
        await until(lambda: bench.heard)
        assert learner.fold.offset >= len(log)
    assert {(said.number, said.weights) for said in bench.heard} == {(newest.number, newest.weights)}


async def test_one_that_goes_on_from_its_ledger_says_nothing_before_it_has_caught_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "READ_AT_ONCE", 1)
    log = trace(60, 1, quiet=25)
    await bench.append(log)
    await bench.ledger.save(folded(THOMPSON, log[:40]), whole=True)
    async with bench.learning():
        await until(lambda: bench.heard)
    assert {said.number for said in bench.heard} == {folded(THOMPSON, log).snapshot.number}


async def test_a_ledger_that_has_all_of_the_log_is_gone_on_from(bench: Bench) -> None:
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(len(LOG)))
    async with bench.learning() as learner:
        await until(lambda: learner.fold.state.pulls.any())
        await bench.append([rows([Shown(number=3, arm="c")])])
        await until(lambda: bench.heard)
        assert learner.fold.state.pulls[0].tolist() == [0, 2 * ONE, 0]
        assert learner.fold.counts["decisions"] == 3


async def test_a_ledger_that_is_ahead_of_the_log_is_of_another_log_and_not_taken_up(bench: Bench) -> None:
    """A broker that was made anew, or another one: records would be passed over until the log is as long."""
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(1000))
    async with bench.learning() as learner:
        await until(lambda: bench.heard)
        assert learner.fold.offset < 10
        assert learner.fold.state.pulls[0].tolist() == [ONE, 0, 0]
    found = await bench.ledger.load("e", "x")
    assert found is not None
    assert (found.at.offset, set(found.seen)) == (learner.fold.offset, {Shown(number=1, arm="a").uid})


async def test_a_ledger_of_another_form_is_not_taken_up_and_the_log_is(bench: Bench) -> None:
    await bench.append(LOG)
    await bench.ledger.save(folded(EXP3, LOG))
    async with bench.learning() as learner:
        await until(lambda: bench.heard)
        assert learner.fold.state.pulls[0].tolist() == [ONE, 0, 0]
