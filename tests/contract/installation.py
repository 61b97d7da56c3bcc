"""The channels of a contract test: one installation on a broker, and its cleanup."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Self
from uuid import uuid4

from broker.base import DELAY_LADDER_S, Broker
from broker.channels import NO_LIMITS, Channels, Limits
from broker.connect import connect

DEADLINE_S = 30.0


class Installation:
    """Opens brokers on channels of this test alone. `user` is the user id of the connection at the broker."""

    def __init__(self, url: str, user: str | None) -> None:
        self.url = url
        self.user = user
        self.channels = Channels(f"t{uuid4().hex[:12]}.")
        self._open = AsyncExitStack()
        self._declared: set[str] = set()
        self._children: list[subprocess.Popen[str]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.communicate()
        await self._open.aclose()
        async with connect(self.url, self.channels) as broker:
            around = {f"{self.channels.prefix}delay.{round(step_s * 1000)}" for step_s in DELAY_LADDER_S}
            for channel in (
                self._declared | around | {f"{self.channels.prefix}limits"}
            ):  # the latter two exist only on Kafka
                await broker.delete(channel)

    async def broker(self) -> Broker:
        """Open another broker, like another process."""
        return await self._open.enter_async_context(connect(self.url, self.channels))

    async def queue(self, broker: Broker, name: str = "a", limits: Limits = NO_LIMITS) -> str:
        """Declare a queue; it is deleted at the end, with its dead queue and its delay queues."""
        queue = self.channels.requests(name)
        await broker.declare(queue, limits)
        self._declared |= {queue, self.channels.dead(queue)}
        self._declared |= {self.channels.delay(queue, round(step_s * 1000)) for step_s in DELAY_LADDER_S}
        return queue

    async def log(self, broker: Broker, name: str = "a", limits: Limits = NO_LIMITS) -> str:
        """Declare a log; it is deleted at the end."""
        log = self.channels.events(name)
        await broker.declare(log, limits)
        self._declared.add(log)
        return log

    def child(self, queue: str, number: int) -> subprocess.Popen[str]:
        """Start a process that takes `number` messages, prints a line, and holds them."""
        words = [sys.executable, "-m", "tests.contract.holder", self.url, self.channels.prefix, queue, str(number)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        return child
