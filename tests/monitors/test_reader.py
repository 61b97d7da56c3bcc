"""Restarts, crashes and gaps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker.base import Broker
from broker.channels import Limits
from broker.protocol.ids import new_uid
from broker.records.events import write_event
from monitors.checkpoint import MonitorCheckpoint, load, save
from tests.monitors.events import AT_US, PREDICTIONS, ended, monitoring, write
from tests.waiting import until


async def test_a_restart_continues_at_the_checkpoint(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended(), ended()])
    async with monitoring(broker, tmp_path) as before:
        await until(lambda: before.reader.rows == 2)
    await write(broker, [ended()])
    async with monitoring(broker, tmp_path) as after:
        await until(lambda: after.reader.rows == 3)
        assert after.arm(PREDICTIONS, status="ok") == 1


async def test_after_a_crash_the_checkpoint_counts_each_row_once(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended(), ended()])
    async with monitoring(broker, tmp_path) as before:
        await until(lambda: before.reader.rows == 2)
        await before.reader.save()
        shutil.copy(tmp_path / "fraud.json", tmp_path / "old.json")
        await write(broker, [ended()])
        await until(lambda: before.reader.rows == 3)
    shutil.move(tmp_path / "old.json", tmp_path / "fraud.json")  # as a crash would have left it
    await write(broker, [ended()])
    async with monitoring(broker, tmp_path) as after:
        await until(lambda: after.reader.rows == 4)
        assert after.arm(PREDICTIONS, status="ok") == 2  # the row after the checkpoint is in its counters, too
    found = load(tmp_path / "fraud.json")
    assert found is not None
    assert (found.rows, found.offset) == (4, 3)


@pytest.mark.parametrize("window_rows", [1, 1000])
async def test_a_row_from_before_the_restart_is_known_after_it(
    broker: Broker, tmp_path: Path, window_rows: int
) -> None:
    uid = new_uid(AT_US)
    await write(broker, [ended(), ended()], [ended(uid=uid)])
    async with monitoring(broker, tmp_path, window_rows=window_rows) as before:
        await until(lambda: before.reader.rows == 3)
    await write(broker, [ended(uid=uid), ended()])
    async with monitoring(broker, tmp_path, window_rows=window_rows) as after:
        await until(lambda: after.reader.rows == 4)
        assert after.value("millrace_monitor_duplicate_rows_total") == 1


async def test_a_gap_is_counted_and_reading_goes_on(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended()])
    async with monitoring(broker, tmp_path) as before:
        await until(lambda: before.reader.rows == 1)
    log = broker.channels.events("fraud")
    body, headers = write_event([ended()], [], [], source="/test")
    await broker.declare(log, Limits(bytes=5 * len(body)))
    for _ in range(30):
        body, headers = write_event([ended()], [], [], source="/test")
        await broker.append(log, [body], headers)
    async with monitoring(broker, tmp_path) as after:
        await until(lambda: after.reader.offset == 31)
        lost = after.value("millrace_monitor_gap_records_total")
        assert lost > 0
        assert after.reader.rows == 31 - lost


async def test_a_new_log_with_the_same_name_is_read_from_its_start(broker: Broker, tmp_path: Path) -> None:
    save(tmp_path / "fraud.json", MonitorCheckpoint(offset=500, rebuild_from=400, rows=900))
    await write(broker, [ended()])
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(PREDICTIONS, status="ok") == 1)


async def test_a_log_that_is_recreated_while_it_is_read_is_read_from_its_start(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended(), ended()], [ended()])
    log = broker.channels.events("fraud")
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.reader.rows == 3)
        await broker.delete(log)
        await write(broker, [ended()])
        await until(lambda: monitor.reader.rows == 4)
        assert monitor.value("millrace_monitor_gap_records_total") == 0
        assert monitor.arm(PREDICTIONS, status="ok") == 4
        assert monitor.reader.offset == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"v": 2}', '{"v": 1, "offset": -1, "rebuild_from": 0, "rows": 0}', "7"]
)
def test_a_broken_checkpoint_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    assert load(tmp_path / "c.json") is None


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "new" / "c.json", MonitorCheckpoint(offset=3, rebuild_from=1, rows=9)
    save(path, checkpoint)
    assert load(path) == checkpoint
    assert [file.name for file in path.parent.iterdir()] == ["c.json"]
