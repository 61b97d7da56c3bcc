"""A process that takes messages and never settles them, for tests that kill it."""

from __future__ import annotations

import asyncio
import sys

from broker.channels import Channels
from broker.connect import connect


async def hold(url: str, prefix: str, queue: str, number: int) -> None:
    """Take `number` messages, print a line, and wait to be killed."""
    async with connect(url, Channels(prefix)) as broker:
        consumer = broker.consume(queue, number)
        held = 0
        while held < number:
            held += len(await consumer.take(number))
        sys.stdout.write("held\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
