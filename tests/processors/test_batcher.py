"""Requests with one signature share a batch, up to the row limit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from processors import batcher
from processors.batcher import Batcher, BatchItem
from tests.processors.pipeline_harness import request


class Clock:
    """A clock that tests set."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(batcher, "time", found)
    return found


def item(rows: int, arrived_s: float = 100.0, *, signature: str = "x") -> BatchItem:
    unused = cast(Any, SimpleNamespace())
    return BatchItem(
        request=request(),
        signature=signature,
        inputs=unused,
        rows=rows,
        ack=unused,
        taken_us=0,
        arrived_s=arrived_s,
    )


def filled(*rows: int, max_rows: int = 8, delay_s: float = 0.0, signature: str = "x") -> Batcher:
    made = Batcher(max_rows=max_rows, delay_s=delay_s)
    for number in rows:
        made.put(item(number, signature=signature))
    return made


def sizes(made: Batcher) -> list[list[int]]:
    """Pop all batches, and return the rows of the requests in each one."""
    found = []
    while batch := made.pop():
        found.append([one.rows for one in batch])
    return found


def test_a_batch_keeps_the_order_and_the_row_limit() -> None:
    assert sizes(filled(3, 3, 3, 8, 1, 7, 2)) == [[3, 3], [3], [8], [1, 7], [2]]


def test_requests_of_two_signatures_share_no_batch_and_take_turns() -> None:
    made = filled(5, 5, signature="x")
    made.put(item(1, signature="y"))
    assert sizes(made) == [[5], [1], [5]]


def test_waiting_rows_are_counted_and_two_batches_leave_no_room() -> None:
    made = filled(8, 7)
    assert (made.waiting_requests, made.waiting_rows, made.has_room) == (2, 15, True)
    made.put(item(1))
    assert not made.has_room
    made.pop()
    assert (made.waiting_requests, made.waiting_rows, made.has_room) == (2, 8, True)
    assert sizes(made) == [[7, 1]]
    assert (made.waiting_requests, made.waiting_rows) == (0, 0)


def test_with_full_only_a_full_batch_is_due() -> None:
    made = filled(4)
    assert made.pop(full=True) == []
    made.put(item(4))
    assert [one.rows for one in made.pop(full=True)] == [4, 4]


def test_a_batch_waits_for_its_delay_or_until_it_is_full(clock: Clock) -> None:
    made = filled(3, delay_s=2.0)
    assert made.pop() == []
    assert made.due_in_s() == 2.0
    clock.now_s = 101.5
    made.put(item(1, 101.5))
    assert made.due_in_s() == 0.5
    clock.now_s = 102.0
    assert made.due_in_s() == 0.0
    assert sizes(made) == [[3, 1]]
    assert made.due_in_s() is None
    made.put(item(8, 102.0))
    assert sizes(made) == [[8]]
