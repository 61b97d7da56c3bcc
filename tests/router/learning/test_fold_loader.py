"""A learner starts from its ledger if that belongs to the log, and publishes nothing before it has caught up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from broker.channels import Limits
from broker.errors import Gap, Unreachable
from broker.messages import Record
from broker.records.routing import (
    TICK,
    LogPosition,
    read_tick,
    write_checkpoint,
)
from router.learning.fold import ExperimentFold
from router.learning.fold_document import checkpoint_of
from router.learning.fold_loader import FoldLoader
from router.stats.arrays import ONE
from tests.router.learning.fold_logs import EXP3, THOMPSON
from tests.router.learning.learner_bench import Bench, everything
from tests.router.learning.traces import START_US, TracedRequest, folded, numbered, rows, spec_of, tick, trace
from tests.waiting import until

WITHIN_S = 5.0
NO_TICKS_S = 3600.0
LOG = numbered([rows([TracedRequest(number=1, arm="a")]), tick(20)])


def elsewhere(offset: int) -> ExperimentFold[Any]:
    """Return a fold of other records and the same last one, which ends there: `b` was shown, twice."""
    fold = folded(THOMPSON, numbered([rows([TracedRequest(number=number, arm="b") for number in (1, 2)]), tick(20)]))
    fold.progress.offset = offset
    return fold


async def test_a_learner_publishes_nothing_before_it_has_read_the_last_ones_records(bench: Bench) -> None:
    """It reads one record at a time; routers would go back to weights of long ago, and a canary to its first step."""
    log = trace(60, 1, quiet=25)
    await bench.append(log)
    newest = folded(THOMPSON, log).snapshot
    assert newest.number > 0
    async with bench.learning(read_at_once=1) as learner:
        await until(lambda: bench.published)
        assert learner.fold.progress.offset >= len(log)
    assert {(latest.number, latest.weights) for latest in bench.published} == {(newest.number, newest.weights)}


async def test_a_learner_with_a_ledger_publishes_nothing_before_it_has_caught_up(bench: Bench) -> None:
    log = trace(60, 1, quiet=25)
    await bench.append(log)
    await bench.ledger.save(folded(THOMPSON, log[:40]), whole=True)
    async with bench.learning(read_at_once=1):
        await until(lambda: bench.published)
    assert {latest.number for latest in bench.published} == {folded(THOMPSON, log).snapshot.number}


async def test_a_ledger_that_has_all_of_the_log_is_gone_on_from(bench: Bench) -> None:
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(len(LOG)))
    async with bench.learning() as learner:
        await until(lambda: learner.fold.state.pulls.any())
        await bench.append([rows([TracedRequest(number=3, arm="c")])])
        await until(lambda: bench.published)
        assert learner.fold.state.pulls[0].tolist() == [0, 2 * ONE, 0]
        assert learner.fold.progress.counts["decisions"] == 3


async def test_a_ledger_that_is_ahead_of_the_log_is_of_another_log_and_not_resumed(bench: Bench) -> None:
    """A broker that was made anew, or another one: records would be passed over until the log is as long."""
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(1000))
    async with bench.learning() as learner:
        await until(lambda: bench.published)
        assert learner.fold.progress.offset < 10
        assert learner.fold.state.pulls[0].tolist() == [ONE, 0, 0]
    found = await bench.ledger.load("e", "x")
    assert found is not None
    assert (found.at.offset, set(found.seen)) == (learner.fold.progress.offset, {TracedRequest(number=1, arm="a").uid})


async def test_a_ledger_of_another_form_is_not_resumed_and_the_log_is(bench: Bench) -> None:
    await bench.append(LOG)
    await bench.ledger.save(folded(EXP3, LOG))
    async with bench.learning() as learner:
        await until(lambda: bench.published)
        assert learner.fold.state.pulls[0].tolist() == [ONE, 0, 0]


async def test_a_ledger_of_another_log_is_not_resumed_however_long_that_was(bench: Bench) -> None:
    """The same endpoint on another broker, or on a log that was deleted: the last record that was folded is another."""
    await bench.append(LOG)
    other = folded(THOMPSON, numbered([rows([TracedRequest(number=number, arm="b")]) for number in (1, 2)]))
    assert other.progress.offset == len(LOG)
    await bench.ledger.save(other)
    async with bench.learning() as learner:
        await until(lambda: bench.published)
        assert learner.fold.state.pulls[0].tolist() == [ONE, 0, 0]
    found = await bench.ledger.load("e", "x")
    assert found is not None
    assert set(found.seen) == {TracedRequest(number=1, arm="a").uid}


class Mute:
    """A reader whose broker does not answer, or has lost the records."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def read(self, limit: int) -> list[Record]:
        if self._error is not None:
            raise self._error
        await asyncio.sleep(3600)
        raise AssertionError(limit)

    async def close(self) -> None:
        pass


async def test_a_broker_without_an_answer_is_not_taken_for_another_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(len(LOG)))
    monkeypatch.setattr(bench.broker, "read", lambda log, offset: Mute())
    log = bench.broker.channels.events("e")
    loader = FoldLoader(bench.broker, bench.ledger, log, spec_of(), THOMPSON, look_back_s=0.05)
    with pytest.raises(Unreachable, match="did not come within"):
        await asyncio.wait_for(loader.load(), WITHIN_S)
    found = await bench.ledger.load("e", "x")
    assert found is not None
    assert found.at.offset == len(LOG)


async def test_a_ledger_whose_last_record_was_trimmed_since_is_gone_on_from(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.append(LOG)
    await bench.ledger.save(elsewhere(len(LOG)))
    read, looks = bench.broker.read, list[int]()

    def trimmed(log: str, offset: Any) -> Any:
        if offset == len(LOG) - 1 and not looks:
            looks.append(offset)
            return Mute(Gap(log, offset, offset + 1))
        return read(log, offset)

    monkeypatch.setattr(bench.broker, "read", trimmed)
    async with bench.learning() as learner:
        await until(lambda: learner.fold.state.pulls.any())
        assert looks
        assert learner.fold.state.pulls[0].tolist() == [0, 2 * ONE, 0]


async def test_a_second_tick_waits_until_the_first_is_read_back(bench: Bench) -> None:
    async with bench.learning(tick_s=0.01) as learner:
        await until(lambda: bench.published)
        apply = learner.fold.apply
        learner.fold.apply = lambda record: None if read_tick(record) else apply(record)  # type: ignore[method-assign]
        await bench.append([rows([TracedRequest(number=1, arm="a")])])
        await until(lambda: learner.fold.needs_ticks)
        await asyncio.sleep(0.3)
    assert [tick.number for record in await everything(bench) if (tick := read_tick(record))] == [1]


async def test_a_second_that_could_not_be_written_down_does_not_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions before an outage keep their whole horizon: no feedback could come meanwhile."""
    append, refused = bench.broker.append, 0

    async def cut(log: str, bodies: Sequence[bytes], headers: Any = None) -> Any:
        nonlocal refused
        if headers and headers["cloudEvents_type"] == TICK and learner.fold.progress.tick == 3 and refused < 10:
            refused += 1
            raise Unreachable("the link is cut")
        return await append(log, bodies, headers)

    monkeypatch.setattr(bench.broker, "append", cut)
    await bench.append([rows([TracedRequest(number=1, arm="a")])])
    async with bench.learning(tick_s=0.01) as learner:
        await until(lambda: learner.fold.progress.tick >= 6)
    ticks = [found.number for record in await everything(bench) if (found := read_tick(record))]
    assert refused == 10
    assert ticks == list(range(1, len(ticks) + 1))


async def test_changes_of_a_failed_commit_are_written_with_the_next_one(bench: Bench, tmp_path: Path) -> None:
    """The disk is full for a while; the next learner has the ledger to go on from, and misses nothing."""
    log = [rows([TracedRequest(number=number, arm="a")]) for number in range(3)]
    await bench.append(log[:2])
    await bench.ledger.save(folded(THOMPSON, numbered(log[:1])), whole=True)
    change(tmp_path / "learner.db", "CREATE TRIGGER full BEFORE INSERT ON joins BEGIN SELECT RAISE(ABORT, 'full'); END")
    async with bench.learning(learning_s=0.0) as learner:
        await until(lambda: decisions(bench) == 2)
        change(tmp_path / "learner.db", "DROP TRIGGER full")
        await bench.append(log[2:])
        await until(lambda: decisions(bench) == 3)
        known = set(learner.fold.joins.by_uid)
    async with bench.learning() as learner:
        await until(lambda: learner.fold.joins.by_uid)
        assert (
            set(learner.fold.joins.by_uid)
            == known
            == {TracedRequest(number=number, arm="a").uid for number in range(3)}
        )


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
    at = LogPosition(offset=await bench.broker.end(log), number=20, at_us=START_US)
    checkpoint = replace(
        checkpoint_of(folded(THOMPSON, LOG)), at=at, rebuild=replace(at, offset=gap.value.end - missing)
    )
    body, headers = write_checkpoint(checkpoint)
    await bench.broker.append(log, [body], headers)
    async with bench.learning() as learner:
        await until(lambda: bench.published)
        assert learner.has_gap is bool(missing)
    assert {latest.phase for latest in bench.published} == {phase}


def change(path: Path, sql: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(int(WITHIN_S * 1000))
        connection.execute(sql)


def decisions(bench: Bench) -> int:
    """Return the number of rewards in the newest snapshot; they are saved before it is published."""
    return max((latest.about["counts"].get("decisions", 0) for latest in bench.published), default=0)
