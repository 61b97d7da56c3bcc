"""A row settles the pending ack of its request once it is safe on the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.channels import Limits
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.prediction_log import PredictionLogWriter
from broker.errors import Refused
from broker.messages import SAFE, TOO_LARGE, Message, Outcome
from broker.protocol.header import Request, Route, Status
from broker.protocol.ids import new_uid
from broker.records.events import EVENT_LIMIT_BYTES, EndedRequests, read_event
from tests.broker.delivery.deliveries import RecordingBroker, delivery

ROUTE = Route(endpoint="e", arm="v1", model="m", version=1)


def request_with(*, trace: str = "") -> Request:
    return Request(route=ROUTE, uid=new_uid(0), accepted_us=0, trace=trace)


def ended(request: Request) -> EndedRequests:
    return EndedRequests(requests=[request], rows=[1], taken_us=[0], status=Status.OK)


class Refusing(RecordingBroker):
    """Gives the same outcome to every publish."""

    outcome = TOO_LARGE

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self.outcome] * len(messages)


class Accepting(Refusing):
    outcome = SAFE


@pytest.mark.parametrize(("kind", "acked"), [(Refusing, []), (Accepting, [[1]])])
async def test_a_request_whose_row_is_refused_stays_unacked_and_comes_back(
    tmp_path: Path, kind: type[RecordingBroker], acked: list[list[int]]
) -> None:
    async with kind(tmp_path / "broker.db") as broker:
        rows, acks = PredictionLogWriter(broker, {}, source="test"), AckTracker(broker)
        request = request_with()
        rows.add("e", ended(request), holds=[acks.hold(delivery(1), 1)])
        await rows.drain()
        await acks.drain()
        assert broker.acked == acked
        assert acks.held == 1 - len(acked)


async def test_rows_that_are_too_large_for_one_message_are_several_events(tmp_path: Path) -> None:
    """One request of many rows that failed for a long reason, between two small ones."""
    async with RecordingBroker(tmp_path / "broker.db") as broker:
        rows, acks = PredictionLogWriter(broker, {}, source="test"), AckTracker(broker)
        requests = [request_with() for _ in range(3)]
        counts = [1, 40_000, 2]
        failed = EndedRequests(
            requests=requests, rows=counts, taken_us=[0, 0, 0], status=Status.FAILED, error="x" * 500
        )
        rows.add("e", failed, holds=[acks.hold(delivery(1), 3)] * 3)
        await rows.drain()
        await acks.drain()
        assert broker.acked == [[1]]
        reader = broker.read(broker.channels.events("e"), 0)
        records = await reader.read(1000)
        await reader.close()
        batches = [batch for record in records if (batch := read_event(record)) is not None]
    assert len(batches) > 1
    assert max(len(record.body) for record in records) <= EVENT_LIMIT_BYTES
    found = [(row["uid"], row["row"]) for batch in batches for row in batch.select(["uid", "row"]).to_pylist()]
    assert found == [(one.uid, row) for one, count in zip(requests, counts, strict=True) for row in range(count)]


async def test_a_row_that_is_too_large_for_a_message_loses_its_texts(tmp_path: Path) -> None:
    async with RecordingBroker(tmp_path / "broker.db") as broker:
        rows = PredictionLogWriter(broker, {}, source="test")
        request = request_with(trace="x" * (2 * EVENT_LIMIT_BYTES))
        rows.add("e", ended(request))
        await rows.drain()
        reader = broker.read(broker.channels.events("e"), 0)
        [record] = await reader.read(1000)
        await reader.close()
    batch = read_event(record)
    assert batch is not None
    [row] = batch.to_pylist()
    assert (row["uid"], row["status"], row["trace"]) == (request.uid, "ok", None)


class RefusingLogs(RecordingBroker):
    """Refuses to make a log for a while."""

    refusals = 0

    async def _make(self, channel: str, limits: Limits) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Refused("another user's queue has the name")
        await super()._make(channel, limits)


def add_row(rows: PredictionLogWriter, acks: AckTracker, tag: int) -> None:
    request = request_with()
    rows.add("e", ended(request), holds=[acks.hold(delivery(tag), 1)])


async def test_a_row_whose_log_was_deleted_is_written_once_it_exists_again(tmp_path: Path) -> None:
    """Before, its request was held forever, and the model stopped after 64 of them."""
    async with RefusingLogs(tmp_path / "broker.db") as broker:
        rows, acks = PredictionLogWriter(broker, {}, source="test"), AckTracker(broker)
        add_row(rows, acks, 1)
        await rows.drain()
        await broker._remove(broker.channels.events("e"))  # noqa: SLF001 - like another program
        broker.refusals = 3
        add_row(rows, acks, 2)
        await rows.drain()
        await acks.drain()
        assert broker.acked == [[1], [2]]
        assert await broker.end(broker.channels.events("e")) == 1


async def test_a_log_that_accepts_no_rows_for_a_while_is_a_trouble(tmp_path: Path) -> None:
    async with RefusingLogs(tmp_path / "broker.db") as broker:
        broker.refusals = 1_000_000
        rows, acks = PredictionLogWriter(broker, {}, source="test", late_s=0.0), AckTracker(broker)
        add_row(rows, acks, 1)
        rows.flush()
        async with asyncio.timeout(10):
            while "another user's queue" not in rows.trouble:  # noqa: ASYNC110 - it is tried repeatedly
                await asyncio.sleep(0.01)
        assert rows.trouble.startswith("the log millrace.events.e has taken no rows for 0 s")
        broker.refusals = 0
        await rows.drain()
        assert rows.trouble == ""
        await acks.drain()
        assert broker.acked == [[1]]
