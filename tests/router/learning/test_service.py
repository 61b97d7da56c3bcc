"""A learner on a real broker: it claims, keeps time, learns, publishes, keeps its ledger, and hands over."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from broker.base import Broker, Since
from broker.channels import Channels, Limits
from broker.connect import connect
from broker.delivery.log_follower import LogFollower
from broker.messages import Record
from broker.protocol.ids import now_us
from broker.records.routing import (
    LearnerCheckpoint,
    LogPosition,
    OperatorCommand,
    SnapshotRecord,
    experiment_of,
    read_experiment_result,
    read_snapshot,
    write_checkpoint,
    write_claim,
    write_operator_command,
    write_snapshot,
)
from router.state.checkpoint_bootstrap import CheckpointBootstrap
from tests.router.learning.live_learner import BANDIT, CANARY, TICK_S, declare, learning, requests, send, viewing
from tests.waiting import until

ENDED = "aborted"


async def test_a_bandit_learns_which_arm_is_better_and_routers_follow(broker: Broker, tmp_path: Path) -> None:
    await declare(broker, BANDIT)
    async with viewing(broker) as view, learning(broker, tmp_path):
        await until(lambda: view.endpoints() and view.learned.term >= 0)
        await send(broker, requests(view, 0, 60))
        await until(lambda: view.router("e").snapshot.weights[1] > 0.9)
        latest = view.snapshot_of("e")
        assert latest is not None
        assert latest.phase == "learning"
        assert max(latest.about["means"]) == 1.0


async def test_another_learner_continues_from_the_log_alone(broker: Broker, tmp_path: Path) -> None:
    """The second one has no ledger: it restores the state from the first one's checkpoint and the records after it."""
    await declare(broker, BANDIT)
    async with viewing(broker) as view:
        await until(view.endpoints)
        async with learning(broker, tmp_path / "one"):
            await until(lambda: view.learned.term >= 0)
            await send(broker, requests(view, 0, 90))
            await until(lambda: view.router("e").snapshot.number > 0)
        first, term = view.snapshot_of("e"), view.learned.term
        async with learning(broker, tmp_path / "two", "learner-2"):
            await until(lambda: view.learned.term > term)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.term == view.learned.term)
            second = view.snapshot_of("e")
            assert first is not None
            assert second is not None
            assert sum(second.about["pulls"]) == pytest.approx(90)
            assert second.about["pulls"] == first.about["pulls"]


async def test_a_router_that_starts_while_no_learner_runs_takes_the_newest_checkpoints_weights(
    broker: Broker, tmp_path: Path
) -> None:
    endpoint = await declare(broker, BANDIT)
    log = broker.channels.events("e")
    place = LogPosition(offset=7, number=60, at_us=now_us())
    for experiment, weight in ((experiment_of(endpoint), 0.75), (experiment_of(endpoint), 0.5), ("another", 0.0)):
        checkpoint = LearnerCheckpoint(
            experiment=experiment, at=place, rebuild=place, number=9, weights=(weight, 1.0 - weight, 0.0), state={}
        )
        body, headers = write_checkpoint(checkpoint)
        await broker.append(log, [body], headers)
    async with viewing(broker) as view:
        await until(view.endpoints)
        task = asyncio.create_task(CheckpointBootstrap(broker, view, first_s=0.0).run())
        await until(lambda: view.router("e").snapshot.number == 9)
        task.cancel()
        assert view.router("e").snapshot.weights == (0.5, 0.5, 0.0)
        await asyncio.gather(task, return_exceptions=True)


async def test_a_learner_that_was_stopped_continues_from_its_ledger(broker: Broker, tmp_path: Path) -> None:
    await declare(broker, BANDIT)
    async with viewing(broker) as view:
        await until(view.endpoints)
        async with learning(broker, tmp_path):
            await until(lambda: view.learned.term >= 0)
            await send(broker, requests(view, 0, 60))
            await until(lambda: view.router("e").snapshot.number > 0)
        term = view.learned.term
        await send(broker, requests(view, 60, 60))
        async with learning(broker, tmp_path, "learner-2"):
            await until(lambda: view.learned.term > term)
            await until(lambda: (latest := view.snapshot_of("e")) and sum(latest.about["pulls"]) > 100)


async def test_after_lost_records_it_continues_from_a_checkpoint(tmp_path: Path) -> None:
    """Its ledger is from before the gap; another learner has left a checkpoint after it."""

    def counted(term: int) -> float:
        latest = view.snapshot_of("e")
        return sum(latest.about["pulls"]) if latest is not None and latest.term == view.learned.term > term else -1.0

    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("test.")) as broker:
        await declare(broker, BANDIT)
        log = broker.channels.events("e")
        await broker.delete(log)
        await broker.declare(log, Limits(bytes=400_000))
        async with viewing(broker) as view:
            await until(view.endpoints)
            for folder, name in (("one", "learner-1"), ("two", "learner-2")):
                before = partial(counted, view.learned.term)
                async with learning(broker, tmp_path / folder, name):
                    await until(lambda before=before: before() == 0)  # type: ignore[misc]
                    await send(broker, requests(view, 0 if folder == "one" else 100, 30))
                    await until(lambda before=before: before() == 30)  # type: ignore[misc]
                while folder == "one" and (await broker.read(log, Since(0)).read(1))[0].offset < 20:
                    await broker.append(log, [b"x" * 20_000])
            before = partial(counted, view.learned.term)
            async with learning(broker, tmp_path / "one", "learner-3"):
                await until(lambda: before() == 30)
                await send(broker, requests(view, 200, 30))
                await until(lambda: before() == 60)


async def test_the_newest_claim_leads_and_no_reader_takes_an_older_ones_snapshots(
    broker: Broker, tmp_path: Path
) -> None:
    endpoint = await declare(broker, BANDIT)
    async with viewing(broker) as view, learning(broker, tmp_path) as registry:
        await until(lambda: view.learned.term >= 0 and registry.get_sample_value("millrace_learner_leads") == 1)
        old = view.learned.term
        await broker.append(broker.channels.declared, [write_claim("somebody-else")])
        await until(lambda: view.learned.term > old and registry.get_sample_value("millrace_learner_leads") == 0)

        def snapshot(term: int, number: int, weight: float) -> bytes:
            weights = (weight, 1.0 - weight, 0.0)
            latest = SnapshotRecord(
                endpoint="e", experiment=experiment_of(endpoint), term=term, number=number, weights=weights
            )
            return write_snapshot(latest)

        new = view.learned.term
        await broker.append(broker.channels.status, [snapshot(new, 5, 0.25), snapshot(old, 9, 0.75)])
        await broker.append(broker.channels.status, [snapshot(new + 1000, 10, 0.75), snapshot(new, 6, 0.5)])
        await until(lambda: view.router("e").snapshot.number == 6)
        assert view.router("e").snapshot.weights == (0.5, 0.5, 0.0)


async def test_commands_have_an_effect_and_a_result_outlives_all_that_was_learnt(
    broker: Broker, tmp_path: Path
) -> None:
    endpoint = await declare(broker, CANARY)
    log = broker.channels.events("e")
    async with viewing(broker) as view, learning(broker, tmp_path / "one"):
        await until(lambda: view.learned.term >= 0 and view.endpoints())
        assert view.router("e").snapshot.weights == (0.95, 0.0, 0.05)
        body, headers = write_operator_command(
            OperatorCommand(word="abort", author="test", at_us=now_us(), experiment=experiment_of(endpoint))
        )
        await broker.append(log, [body], headers)
        await until(lambda: view.router("e").snapshot.weights == (1.0, 0.0, 0.0))
        await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "aborted")
    reader = broker.read(broker.channels.declared, 0)
    verdicts = [found for record in await reader.read(100) if (found := read_experiment_result(record))]
    await reader.close()
    assert [verdict.phase for verdict in verdicts] == ["aborted"]
    await broker.delete(log)
    async with viewing(broker) as later:
        await until(later.endpoints)
        await until(lambda: later.router("e").snapshot.weights == (1.0, 0.0, 0.0))
        term = later.learned.term
        async with learning(broker, tmp_path / "two", "learner-2"):  # its ledger is empty, and so is the log
            await until(lambda: later.learned.term > term)
            await until(
                lambda: (
                    (latest := later.snapshot_of("e"))
                    and latest.term == later.learned.term
                    and latest.phase == "aborted"
                )
            )
            assert later.router("e").snapshot.weights == (1.0, 0.0, 0.0)


async def test_the_newest_snapshot_is_repeated_every_ten_seconds_of_the_logs_clock(
    broker: Broker, tmp_path: Path
) -> None:
    """With shorter ticks the figures are published as often in ticks as in production."""
    await declare(broker, CANARY)
    await broker.declare(broker.channels.status)
    published: list[SnapshotRecord] = []

    def fold(record: Record) -> None:
        latest = read_snapshot(record)
        published.extend([] if latest is None else [latest])

    async with learning(broker, tmp_path):
        task = asyncio.create_task(LogFollower(broker, broker.channels.status, 0, fold).run())
        await until(lambda: published)
        async with asyncio.timeout(20 * 10 * TICK_S):
            await until(lambda: len(published) >= 5)
        task.cancel()
    assert {latest.number for latest in published} == {0}


def test_a_malformed_status_record_is_skipped() -> None:
    assert read_snapshot(Record(0, b'{"v":1,"kind":"snapshot","weights":[0.5,0.6]}', {})) is None
    assert read_snapshot(Record(0, b'{"v":1,"kind":"snapshot"', {})) is None
    assert read_snapshot(Record(0, b'{"v":1,"kind":"snapshot","weights":[1],"term":"x"}', {})) is None


async def test_a_checkpoint_that_cannot_be_read_is_no_reason_to_learn_nothing(tmp_path: Path) -> None:
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        endpoint = await declare(broker, BANDIT)
        place = LogPosition(offset=0, number=0, at_us=0)
        broken = LearnerCheckpoint(
            experiment=experiment_of(endpoint),
            at=place,
            rebuild=place,
            number=0,
            weights=(1.0, 0.0, 0.0),
            state={"x": 1},
        )
        body, headers = write_checkpoint(broken)
        await broker.append(broker.channels.events("e"), [body], headers)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "learning")
            await send(broker, requests(view, 0, 60))
            await until(lambda: (latest := view.snapshot_of("e")) and sum(latest.about["pulls"]) == 60)


async def test_an_experiment_that_returns_keeps_its_state_and_learns_nothing_from_another_one(
    tmp_path: Path,
) -> None:
    """A canary is edited and restored: the commands and requests of the other experiment do not count for it."""
    edited = {**CANARY, "experiment": "edited"}
    async with connect(f"sqlite:///{tmp_path}/broker.db", Channels("t.")) as broker:
        await declare(broker, CANARY)
        async with viewing(broker) as view, learning(broker, tmp_path):
            await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "step 1 of 2")
            other = await declare(broker, edited)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(other))
            order = OperatorCommand(word="promote", author="test", at_us=now_us(), experiment=experiment_of(other))
            body, headers = write_operator_command(order)
            await broker.append(broker.channels.events("e"), [body], headers)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.phase == "promoted")
            first = await declare(broker, CANARY)
            await until(lambda: (latest := view.snapshot_of("e")) and latest.experiment == experiment_of(first))
            number = view.router("e").snapshot.number
            await until(lambda: view.router("e").snapshot.number >= number)
            latest = view.snapshot_of("e")
            assert latest is not None
            assert (latest.phase, latest.weights) == ("step 1 of 2", (0.95, 0.0, 0.05))
