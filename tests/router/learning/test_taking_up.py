"""Where a learner begins: from its ledger if that fits the log, and it says nothing before it has caught up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from prometheus_client import CollectorRegistry

from broker.base import Limits
from broker.channels import Channels
from broker.errors import Gap
from broker.following import Following
from broker.messages import Record
from broker.routing import Place, Said, read_snapshot, write_checkpoint
from broker.sqlite.adapter import SqliteBroker
from router.learning import endpoint
from router.learning.endpoint import EndpointLearner, LearnerSettings
from router.learning.fold import Fold
from router.learning.ledger import Ledger
from router.learning.metrics import LearnerMetrics
from router.stats.arrays import ONE
from tests.router.learning.test_fold import EXP3, THOMPSON
from tests.router.learning.traces import START_US, Shown, folded, numbered, rows, subject_of, tick, trace

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


async def test_what_could_not_be_written_once_is_written_with_all_that_follows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for a while; the next learner has the ledger to go on from, and misses nothing."""
    monkeypatch.setattr(endpoint, "ABOUT_S", 0.0)
    log = [rows([Shown(number=number, arm="a")]) for number in range(3)]
    await bench.append(log[:2])
    await bench.ledger.save(folded(THOMPSON, numbered(log[:1])), whole=True)
    change(tmp_path / "learner.db", "CREATE TRIGGER full BEFORE INSERT ON joins BEGIN SELECT RAISE(ABORT, 'full'); END")
    async with bench.learning() as learner:
        await until(lambda: decisions(bench) == 2)
        change(tmp_path / "learner.db", "DROP TRIGGER full")
        await bench.append(log[2:])
        await until(lambda: decisions(bench) == 3)
        known = set(learner.fold.waiting.joins)
    async with bench.learning() as learner:
        await until(lambda: learner.fold.waiting.joins)
        assert set(learner.fold.waiting.joins) == known == {Shown(number=number, arm="a").uid for number in range(3)}


@pytest.mark.parametrize(("missing", "phase"), [(1, "stopped: records of the log are gone"), (0, "learning")])
async def test_a_checkpoint_that_needs_a_record_that_is_gone_is_not_gone_on_from(
    bench: Bench, missing: int, phase: str
) -> None:
    log = bench.broker.channels.events("e")
    await bench.append(LOG)
    await bench.ledger.save(folded(THOMPSON, LOG[:1]))
    await bench.broker.declare(log, Limits(bytes=100_000))
    for _ in range(4):
        await bench.broker.append(log, [b"x" * 30_000])
    reader = bench.broker.read(log, 0)
    with pytest.raises(Gap) as gap:
        await reader.read(1)
    await reader.close()
    at = Place(offset=await bench.broker.end(log), number=20, at_us=START_US)
    checkpoint = replace(folded(THOMPSON, LOG).checkpoint(), at=at, rebuild=replace(at, offset=gap.value.end - missing))
    body, headers = write_checkpoint(checkpoint)
    await bench.broker.append(log, [body], headers)
    async with bench.learning() as learner:
        await until(lambda: bench.heard)
        assert learner.gap is bool(missing)
    assert {said.phase for said in bench.heard} == {phase}


def change(path: Path, sql: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(int(WITHIN_S * 1000))
        connection.execute(sql)


def decisions(bench: Bench) -> int:
    """Return how many the learner has said it knows; before it says so it saves them."""
    return max((said.about["counts"].get("decisions", 0) for said in bench.heard), default=0)
