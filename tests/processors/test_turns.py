"""When a batch has its turn, and when its rows leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from broker.delivery.prediction_log import PredictionLogWriter
from broker.protocol.ids import now_us
from broker.tensor.datatypes import Array
from processors.batcher import Batcher, BatchItem
from tests.processors.piping import PATIENCE_S, alone, bundled, piped, request


def same(inputs: dict[str, Array]) -> Mapping[str, Array]:
    return {"y": inputs["x"], "z": inputs["x"]}


async def test_a_batch_that_becomes_due_while_it_is_looked_at_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not due when it was asked for, due when it was asked how long to wait: then nobody would look again."""
    pop, early = Batcher.pop, list[bool]()

    def pop_too_early(batcher: Batcher, *, full: bool = False) -> list[BatchItem]:
        if batcher.waiting_requests and not early:
            early.append(True)
            return []
        return pop(batcher, full=full)

    monkeypatch.setattr(Batcher, "pop", pop_too_early)
    async with piped(tmp_path, same) as pipe:
        await pipe.put(alone(pipe.pipeline.queue, request(1)))
        await pipe.serve(lambda: bool(early) and not pipe.pipeline.in_flight)
        assert {status for status, _ in (await pipe.answers()).values()} == {"ok"}


async def test_a_request_whose_time_is_over_when_its_turn_comes_is_not_computed(tmp_path: Path) -> None:
    computed, go_on = list[float](), threading.Event()

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        computed.extend(inputs["x"].ravel().tolist())
        go_on.wait(PATIENCE_S)
        return same(inputs)

    async with piped(tmp_path, compute) as pipe:
        first = request(1)
        await pipe.put(alone(pipe.pipeline.queue, first))
        serving = asyncio.ensure_future(pipe.serve(lambda: pipe.pipeline.acks.held == 0))
        while not computed:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.01)
        late = request(2, deadline_us=now_us() + 1_000_000)
        await pipe.put(alone(pipe.pipeline.queue, late))
        while pipe.pipeline.in_flight < 2:  # noqa: ASYNC110 - a queue's delivery
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, late.deadline_us - now_us()) / 1e6 + 0.05)
        go_on.set()
        await serving
        answers = await pipe.answers()
        assert (answers[first.uid][0], answers[late.uid][0]) == ("ok", "expired")
        assert computed == [1.0]


async def test_rows_leave_when_half_of_what_may_be_held_waits_for_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still has to be computed waits for no rows: if it counted, a busy processor would write an event a batch."""
    monkeypatch.setattr("processors.outcomes.PredictionLogWriter", partial(PredictionLogWriter, linger_s=3600.0))

    def compute(inputs: dict[str, Array]) -> Mapping[str, Array]:
        time.sleep(0.01)
        return same(inputs)

    async with piped(tmp_path, compute) as pipe:
        await pipe.put(*[bundled(pipe.pipeline.queue, [request(at) for at in range(8)]) for _ in range(24)])
        await pipe.serve()
        assert len(await pipe.rows()) == 24 * 8
        events = await pipe.broker.end(pipe.broker.channels.events("e"))
        assert 24 / 8 <= events <= 24 / 3
