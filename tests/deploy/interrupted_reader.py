"""A process that stops while it reads a dead queue, for a test that kills it there."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from unittest.mock import patch

from broker.channels import Channels
from broker.messages import Message
from broker.protocol.dead_letters import DeadLetter, read_dead_letter
from deploy.operations import dead_letters as dead
from deploy.wiring import Installation

STOP_AT = 100


async def main(path: str, queue: str) -> None:
    """Read a dead queue, and block at the hundredth letter while all of them are held."""
    seen = 0

    def block(message: Message, channels: Channels) -> DeadLetter:
        nonlocal seen
        seen += 1
        if seen == STOP_AT:
            sys.stdout.write("held\n")
            sys.stdout.flush()
            sys.stdin.read()
        return read_dead_letter(message, channels)

    with patch.object(dead, "read_dead_letter", block):  # called for each letter
        async with Installation.at(Path(path)).broker() as broker:
            await dead.read_page(broker, queue, 1000)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
