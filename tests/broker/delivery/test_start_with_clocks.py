"""A part takes no request before it has measured the clocks of the other machines: it would misread deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import processors.replica
import router.service.run
from broker.base import Broker, Since
from broker.channels import Channels
from broker.protocol.ids import now_us
from broker.records.status import read_status
from broker.sqlite.adapter import SqliteBroker
from processors.replica import Replica, ReplicaSpec
from router.service.run import RouterSettings
from tests.processors.repository_folder import add_versions
from tests.waiting import in_background, until

MODEL = """
class Model:
    def infer(self, inputs):
        return {"y": inputs["x"]}
"""
NOT_YET_S = 1.0
Start = Callable[[Broker, Path, asyncio.Event], Awaitable[None]]


class MeasuringClocks:
    """Clocks that count as measured once the test sets `done`."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.awaited = asyncio.Event()

    async def measured(self) -> None:
        self.awaited.set()
        await self.done.wait()


async def start_router(broker: Broker, folder: Path, stop: asyncio.Event) -> None:
    await router.service.run.run(broker, RouterSettings(instance="part-1"), b"secret", CollectorRegistry(), stop)


async def start_replica(broker: Broker, folder: Path, stop: asyncio.Event) -> None:
    add_versions(folder / "models", "m", 1)
    (folder / "models/m/1/model.py").write_text(MODEL)
    spec = ReplicaSpec(
        instance="part-1", repository=folder / "models", kept_configs=folder / "kept", model="m", version=1
    )
    await Replica(broker, spec, CollectorRegistry()).run(stop)


async def collect(broker: Broker, states: list[str], since_us: int) -> None:
    """Append the states that the part announces until cancelled."""
    reader = broker.read(broker.channels.status, Since(since_us))
    try:
        while True:
            announcements = [read_status(record) for record in await reader.read(100)]
            states += [it.state for it in announcements if it is not None and it.instance == "part-1"]
    finally:
        await reader.close()


@pytest.mark.parametrize("start", [start_router, start_replica])
async def test_no_part_is_ready_before_the_clocks_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    clocks, stop, states, since_us = MeasuringClocks(), asyncio.Event(), list[str](), now_us() - 1_000_000
    monkeypatch.setattr(router.service.run, "CLOCKS", clocks)
    monkeypatch.setattr(processors.replica, "CLOCKS", clocks)
    async with (
        SqliteBroker(tmp_path / "broker.db", Channels()) as broker,
        in_background(collect(broker, states, since_us)),
    ):
        running = asyncio.ensure_future(start(broker, tmp_path, stop))
        try:
            async with asyncio.timeout(60.0):
                await clocks.awaited.wait()
            await asyncio.sleep(NOT_YET_S)
            assert "ready" not in states
            clocks.done.set()
            await until(lambda: "ready" in states)
        finally:
            stop.set()
            clocks.done.set()
            await running
