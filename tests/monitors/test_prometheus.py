"""Rows become series: each row once, each batch once, and never more series than allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from broker.base import Broker
from broker.protocol.header import Status
from broker.protocol.ids import new_uid
from broker.records.events import TYPE
from broker.records.feedback import Feedback, write_feedback
from monitors.seen import SeenRows, keys_of
from monitors.series import SECONDS, Series
from tests.monitors.events import AT_US, PREDICTIONS, ended, monitoring, write
from tests.waiting import until


async def test_rows_are_counted_by_arm_and_status(broker: Broker, tmp_path: Path) -> None:
    event = [ended(), ended(rows=3), ended(status=Status.FAILED), ended(arm="b", version=2)]
    async with monitoring(broker, tmp_path) as monitor:
        await write(broker, event)
        await until(lambda: monitor.value("millrace_monitor_rows_total") == 6)
        assert monitor.arm(PREDICTIONS, status="ok") == 4
        assert monitor.arm(PREDICTIONS, status="failed") == 1
        assert monitor.value(PREDICTIONS, model="trees", version="2", arm="b", status="ok") == 1


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("millrace_queue_wait_seconds", 0.020),
        ("millrace_batch_wait_seconds", 0.010),
        ("millrace_compute_seconds", 0.003),
        ("millrace_publish_seconds", 0.001),
    ],
)
async def test_every_stage_is_timed(broker: Broker, tmp_path: Path, name: str, seconds: float) -> None:
    await write(broker, [ended(rows=2)])
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(f"{name}_count") == 2)
        assert monitor.arm(f"{name}_sum") == pytest.approx(2 * seconds)
        below = [bound for bound in SECONDS if monitor.arm(f"{name}_bucket", le=f"{bound:g}")]
        assert below[0] == min(bound for bound in SECONDS if bound >= seconds)


async def test_a_row_that_never_reached_a_stage_is_not_timed_there(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended(status=Status.EXPIRED, started_us=0, batch=0)])
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(PREDICTIONS, status="expired") == 1)
        assert monitor.arm("millrace_queue_wait_seconds_count") == 1
        assert monitor.arm("millrace_compute_seconds_count") == 0
        assert monitor.arm("millrace_batch_rows_count") == 0


async def test_a_batch_is_counted_once_however_many_rows_it_has(broker: Broker, tmp_path: Path) -> None:
    first = [ended(batch=4) for _ in range(4)]
    second = [ended(batch=2, started_us=AT_US + 50_000) for _ in range(2)]
    await write(broker, first + second)
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(PREDICTIONS, status="ok") == 6)
        assert monitor.arm("millrace_batch_rows_count") == 2
        assert monitor.arm("millrace_batch_rows_sum") == 6
        assert monitor.arm("millrace_batch_rows_bucket", le="2") == 1


async def test_a_repeated_row_is_counted_once_and_the_first_one_counts(broker: Broker, tmp_path: Path) -> None:
    uid = new_uid(AT_US)
    again = [ended(uid=uid, status=Status.FAILED), ended(), ended()]
    await write(broker, [ended(uid=uid), ended(uid=uid)], again, again)
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.value("millrace_monitor_duplicate_rows_total") == 5)
        assert monitor.arm(PREDICTIONS, status="ok") == 3
        assert monitor.arm(PREDICTIONS, status="failed") == 0


async def test_another_leg_of_a_request_is_another_row(broker: Broker, tmp_path: Path) -> None:
    uid = new_uid(AT_US)
    await write(broker, [ended(uid=uid), ended(uid=uid, leg=1)])
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(PREDICTIONS, status="ok") == 2)


async def test_an_unreadable_record_is_counted_and_skipped(broker: Broker, tmp_path: Path) -> None:
    log = broker.channels.events("fraud")
    await broker.declare(log)
    await broker.append(log, [b"no arrow", b""], {"cloudEvents_type": TYPE})
    await broker.append(log, [b"{}"], {"cloudEvents_type": "somebody.elses.v9"})
    body, headers = write_feedback(Feedback(uid=new_uid(AT_US), truth=1))
    await broker.append(log, [body], headers)
    await write(broker, [ended()])
    async with monitoring(broker, tmp_path) as monitor:
        await until(lambda: monitor.arm(PREDICTIONS, status="ok") == 1)
        assert monitor.value("millrace_monitor_unreadable_records_total") == 2
        assert monitor.value("millrace_feedback_records_total") == 1


async def test_more_series_than_allowed_are_dropped_and_counted(broker: Broker, tmp_path: Path) -> None:
    await write(broker, [ended()], [ended(arm="b")])
    async with monitoring(broker, tmp_path, series=6) as monitor:
        await until(lambda: monitor.value("millrace_monitor_rows_total") == 2)
        assert monitor.arm(PREDICTIONS, status="ok") == 1
        assert monitor.value(PREDICTIONS, model="trees", version="1", arm="b", status="ok") == 0
        assert monitor.registry.get_sample_value("millrace_monitor_dropped_observations_total") == 6


def test_columns_fall_into_the_buckets_of_the_usual_histogram() -> None:
    values = np.concatenate([np.random.default_rng(7).exponential(0.05, 1000), SECONDS])
    registry, usual = CollectorRegistry(), CollectorRegistry()
    Series(registry, 10).observe("millrace_compute_seconds", ("e", "m", "1", "a"), values)
    reference = Histogram("reference", "x", buckets=SECONDS, registry=usual)
    for value in values:
        reference.observe(value)
    for bound in SECONDS:
        ours = registry.get_sample_value(
            "millrace_compute_seconds_bucket",
            {"endpoint": "e", "model": "m", "version": "1", "arm": "a", "le": f"{bound:g}"},
        )
        theirs = usual.get_sample_value("reference_bucket", {"le": str(bound)})
        assert ours == theirs
    assert b"millrace_compute_seconds_sum" in generate_latest(registry)


def test_the_window_is_bounded_and_can_be_rebuilt_from_its_offset() -> None:
    seen, random = SeenRows(window_rows=10), np.random.default_rng(1)
    everything = random.integers(0, 2**63, (100, 5)).astype(np.uint64)
    for offset, keys in enumerate(everything):
        assert seen.first_time(keys, offset).all()
    start = seen.rebuild_from(100)
    assert 95 <= start <= 98
    rebuilt = SeenRows(window_rows=10)
    for offset in range(start, 100):
        rebuilt.first_time(everything[offset], offset)
    last_window = everything[98:].ravel()
    assert not seen.first_time(last_window, 100).any()
    assert not rebuilt.first_time(last_window, 100).any()


def test_keys_differ_for_a_million_rows() -> None:
    uids = np.frombuffer(b"".join(new_uid(AT_US) for _ in range(10_000)), "<u8").reshape(-1, 2)
    uids = np.repeat(uids, 100, axis=0)
    rows = np.tile(np.arange(100, dtype=np.uint32), 10_000)
    keys = keys_of(uids, np.zeros(len(rows), np.uint8), rows)
    assert len(np.unique(keys)) == 1_000_000
