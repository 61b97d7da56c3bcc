"""The router for clients of the queue, over an embedded broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry

from broker.channels import Channels
from broker.messages import Message
from broker.sqlite.adapter import SqliteBroker
from router.metrics import RouterMetrics
from router.service import EndpointService
from router.view import View


async def test_refusals_that_nobody_can_be_told_of_are_counted(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        queue = broker.channels.requests("e")
        await broker.declare(queue)
        await broker.publish([Message(queue=queue, body=b"{}", reply_to="gone")] * 2)
        service = EndpointService(broker, View(b"key"), "e", "router-test", RouterMetrics(registry))
        running = asyncio.create_task(service.run())
        async with asyncio.timeout(10):
            while (await broker.depth(queue)).messages:  # noqa: ASYNC110 - a broker tells depth only when asked
                await asyncio.sleep(0.01)
            await service.stop()
            await running
    assert registry.get_sample_value("millrace_answers_dropped_total", {"reason": "no such queue"}) == 2
