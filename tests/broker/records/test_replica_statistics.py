"""Replica statistics are written, read back and summed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from broker.records.replica_statistics import SIZES_LIMIT, Statistics, read_statistics, total_of


def worked(*batches: int) -> Statistics:
    statistics = Statistics()
    for rows in batches:
        statistics.computed(requests=2, rows=rows, queued_us=10, computing_us=100, at_us=1_700_000_000_000_000)
    return statistics


def test_statistics_are_read_back_as_they_were_written() -> None:
    statistics = worked(4, 8, 4)
    statistics.fail.add(1, 7)
    assert read_statistics(orjson.loads(orjson.dumps(statistics.write()))) == statistics
    assert Statistics().write() == {}
    assert read_statistics({}) is None


def test_replicas_are_summed() -> None:
    both = total_of([worked(4), worked(4, 8)])
    assert (both.success.count, both.rows, both.queue.total_us) == (6, 16, 30)
    assert {size: it.count for size, it in both.batches.items()} == {4: 2, 8: 1}


def test_batch_sizes_beyond_the_limit_are_not_counted() -> None:
    statistics = worked(*range(1, SIZES_LIMIT + 50))
    assert len(statistics.batches) == SIZES_LIMIT
    assert statistics.success.count == 2 * (SIZES_LIMIT + 49)


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        [],
        "x",
        {"rows": -1},
        {"rows": "1"},
        {"success": 7},
        {"success": [1]},
        {"queue": [1, 2**62]},
        {"compute": [True, 1]},
        {"batches": 1},
        {"batches": [[1, 2]]},
        {"batches": [["a", 1, 1]]},
        {"last_ms": 1.5},
    ],
)
def test_malformed_data_is_no_statistics(wrong: Any) -> None:
    assert read_statistics(wrong) is None
