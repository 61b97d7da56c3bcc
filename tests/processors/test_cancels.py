"""Cancelled requests are answered without being computed, and are forgotten after their deadline."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.messages import Record
from broker.protocol.ids import new_uid, now_us
from broker.records.status import Cancel, write_cancels
from processors.cancels import PRUNE_S, CancelledRequests
from tests.processors.pipeline_harness import bundled, request, running_pipeline


def record(body: bytes) -> Record:
    return Record(0, body, {})


async def test_cancelled_requests_are_answered_and_only_the_others_are_computed(tmp_path: Path) -> None:
    requests = [request(float(number)) for number in range(4)]
    cancelled = {requests[1].uid, requests[2].uid}
    computed: list[float] = []

    def compute(inputs):  # type: ignore[no-untyped-def]
        computed.extend(inputs["x"].ravel().tolist())
        return {"y": inputs["x"], "z": inputs["x"]}

    async with running_pipeline(tmp_path, compute, cancels=cancelled) as harness:
        await harness.publish(bundled(harness.pipeline.queue, requests))
        await harness.serve()
        answers, rows = await harness.answers(), await harness.rows()
    assert [answers[one.uid][0] for one in requests] == ["ok", "cancelled", "cancelled", "ok"]
    assert computed == [0.0, 3.0]
    assert sorted(row["status"] for row in rows) == ["cancelled", "cancelled", "ok", "ok"]


def test_cancels_are_read_from_the_log_and_forgotten_with_their_deadline() -> None:
    now, clock = now_us(), [0.0]
    old, live, later = new_uid(now), new_uid(now), new_uid(now)
    known = CancelledRequests(lambda: clock[0])
    known.fold(record(write_cancels([Cancel(old, now - 1), Cancel(live, now + 10**9)])))
    clock[0] += 2 * PRUNE_S
    known.fold(record(write_cancels([Cancel(later, now + 10**9)])))
    assert [uid in known for uid in (old, live, later, b"")] == [False, True, True, False]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"v": 1}',
        b'{"v": 2, "kind": "cancel", "requests": [["00", 1]]}',
        b'{"v": 1, "kind": "cancel", "requests": 3}',
        b'{"v": 1, "kind": "cancel", "requests": [["x", 1]]}',
        b'{"v": 1, "kind": "cancel", "requests": [[1, 1]]}',
        b'{"v": 1, "kind": "cancel", "requests": [["00"]]}',
        b'{"v": 1, "kind": "announcement"}',
    ],
)
def test_a_record_that_is_no_cancel_is_ignored(body: bytes) -> None:
    known = CancelledRequests()
    known.fold(record(body))
    assert len(known) == 0


def test_cancels_are_bounded_and_expired_ones_make_room() -> None:
    clock = [0.0]
    known = CancelledRequests(lambda: clock[0], limit=10)
    known.fold(record(write_cancels([Cancel(new_uid(now_us()), now_us() - 1) for _ in range(20)])))
    assert len(known) == 10
    clock[0] += 2 * PRUNE_S
    new = new_uid(now_us())
    known.fold(record(write_cancels([Cancel(new, now_us() + 10**9)])))
    assert new in known
    assert len(known) == 1
