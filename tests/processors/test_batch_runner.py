"""Batches start when they are due, and their rows leave in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from broker.delivery.prediction_log import PredictionLogWriter
from broker.protocol.bundle import single
from broker.protocol.ids import now_us
from broker.tensor.datatypes import Array
from processors.batcher import Batcher, BatchItem
from tests.processors.pipeline_harness import PATIENCE_S, bundled, request, running_pipeline


def same(inputs: dict[str, Array]) -> Mapping[str, Array]:
    return {"y": inputs["x"], "z": inputs["x"]}


async def test_a_batch_that_becomes_due_between_two_checks_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is not due in `pop`, but due in `due_in_s`: without care no further check would follow."""
    pop, early = Batcher.pop, list[bool]()

    def pop_too_early(batcher: Batcher, *, full: bool = False) -> list[BatchItem]:
        if batcher.waiting_requests and not early:
            early.append(True)
            return []
        return pop(batcher, full=full)

    monkeypatch.setattr(Batcher, "pop", pop_too_early)
    async with running_pipeline(tmp_path, same) as harness:
        await harness.publish(single(harness.pipeline.queue, request(1)))
        await harness.serve(lambda: bool(early) and not harness.pipeline.in_flight)
        assert {status for status, _ in (await harness.answers()).values()} == {"ok"}


async def test_a_request_that_expires_before_its_batch_starts_is_not_computed(tmp_path: Path) -> None:
    computed, go_on = list[float](), threading.Event()

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        computed.extend(inputs["x"].ravel().tolist())
        go_on.wait(PATIENCE_S)
        return same(inputs)

    async with running_pipeline(tmp_path, compute) as harness:
        first = request(1)
        await harness.publish(single(harness.pipeline.queue, first))
        serving = asyncio.ensure_future(harness.serve(lambda: harness.pipeline.acks.held == 0))
        while not computed:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.01)
        late = request(2, deadline_us=now_us() + 1_000_000)
        await harness.publish(single(harness.pipeline.queue, late))
        while harness.pipeline.in_flight < 2:  # noqa: ASYNC110 - a queue's delivery
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, late.deadline_us - now_us()) / 1e6 + 0.05)
        go_on.set()
        await serving
        answers = await harness.answers()
        assert (answers[first.uid][0], answers[late.uid][0]) == ("ok", "expired")
        assert computed == [1.0]


async def test_rows_leave_when_half_of_the_prefetch_waits_only_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are not computed yet must not count, or a busy processor would write one event per batch."""
    monkeypatch.setattr("processors.outcomes.PredictionLogWriter", partial(PredictionLogWriter, linger_s=3600.0))

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        time.sleep(0.01)
        return same(inputs)

    async with running_pipeline(tmp_path, compute) as harness:
        await harness.publish(*[bundled(harness.pipeline.queue, [request(at) for at in range(8)]) for _ in range(24)])
        await harness.serve()
        assert len(await harness.rows()) == 24 * 8
        events = await harness.broker.end(harness.broker.channels.events("e"))
        assert 24 / 8 <= events <= 24 / 3
