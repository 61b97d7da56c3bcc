"""What becomes of messages when many want the same partition."""

from __future__ import annotations

import asyncio

from broker.messages import SAFE
from tests.contract.installation import Installation
from tests.servers import kafka_url

MANY = 600


async def test_hundreds_that_are_appended_to_a_log_at_once_are_all_safe() -> None:
    """The client library told those who waited for a second that forty were over, and its producer was thrown away."""
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        log = installation.channels.events("busy")
        await broker.declare(log)
        appended = await asyncio.gather(*[broker.append(log, [b"x"]) for _ in range(MANY)])
        assert [outcome for outcomes in appended for outcome in outcomes] == [SAFE] * MANY
        assert await broker.end(log) == MANY
        await broker.delete(log)
