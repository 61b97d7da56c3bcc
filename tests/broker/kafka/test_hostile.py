"""Reply addresses that clients invent reach no topic, and do no harm."""

from __future__ import annotations

import pytest

from broker.messages import NO_QUEUE, SAFE, Message
from tests.contract.installation import Installation
from tests.servers import kafka_url


@pytest.mark.parametrize("address", ["", "a b", "x" * 40_000, "\udcff", "t#x", "t#1#2", "t#" + "9" * 5000, "."])
async def test_an_address_that_is_no_topic_is_no_queue(address: str) -> None:
    async with Installation(kafka_url(), user=None) as installation:
        broker = await installation.broker()
        queue = await installation.queue(broker)
        messages = [Message(queue=name, body=b"x", reply_to=address) for name in (queue, address, f"{queue}#4000")]
        assert await broker.publish(messages) == [SAFE, NO_QUEUE, NO_QUEUE]
