"""Connections to Kafka are cut while they are used, on uvloop as in production and on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from uuid import uuid4

import pytest
import uvloop

from broker.channels import Channels
from broker.errors import TryAgain
from broker.kafka.adapter import KafkaBroker
from tests.proxy import Proxy
from tests.servers import kafka_url

ASKING = 20
CUTS = 15
EVERY_S = 0.1
PATIENCE_S = 60.0

Run = Callable[[Coroutine[None, None, int]], int]


async def _ask_through_cuts() -> int:
    """Ask for a queue's depth many times at once while connections are cut; return the number of answers."""
    channels = Channels(f"cuts-{uuid4().hex[:8]}.")
    queue, answered, going = channels.requests("e"), 0, True

    async def ask() -> None:
        nonlocal answered
        while going:
            with contextlib.suppress(TryAgain):
                await broker.depth(queue)
                answered += 1

    async with Proxy(kafka_url()) as proxy, KafkaBroker(proxy.url, channels) as broker:
        await broker.declare(queue)
        asking = [asyncio.create_task(ask()) for _ in range(ASKING)]
        for _ in range(CUTS):
            await asyncio.sleep(EVERY_S)
            proxy.cut()
        going = False
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*asking)
        await broker.depth(queue)
        await broker.delete(queue)
        await broker.delete(f"{channels.prefix}limits")
    return answered


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_a_cut_connection_only_raises_try_again(run: Run) -> None:
    assert run(_ask_through_cuts()) > 0


async def test_a_log_that_is_being_read_can_be_closed() -> None:
    channels = Channels(f"cuts-{uuid4().hex[:8]}.")
    log = channels.status
    async with KafkaBroker(kafka_url(), channels) as broker:
        await broker.declare(log)
        for pause_s in (0.0, 0.05, 0.3):
            reader = broker.read(log, 0)
            reading = asyncio.create_task(reader.read(10))
            await asyncio.sleep(pause_s)
            await reader.close()
            assert await reading == []
        await broker.delete(log)
        await broker.delete(f"{channels.prefix}limits")
