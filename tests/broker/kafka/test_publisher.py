"""Many publishes to the same partition at once."""

from __future__ import annotations

import asyncio

from broker.messages import SAFE
from tests.contract.installation import Installation
from tests.servers import kafka_url

MANY = 600


async def test_hundreds_of_concurrent_appends_to_a_log_are_all_safe() -> None:
    """Before, aiokafka let waiting batches time out too early, and the producer was replaced."""
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        log = installation.channels.events("busy")
        await broker.declare(log)
        appended = await asyncio.gather(*[broker.append(log, [b"x"]) for _ in range(MANY)])
        assert [outcome for outcomes in appended for outcome in outcomes] == [SAFE] * MANY
        assert await broker.end(log) == MANY
        await broker.delete(log)
