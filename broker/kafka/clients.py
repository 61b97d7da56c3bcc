"""The clients that ask Kafka about topics, groups and offsets. A client that also consumes would answer late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from broker.errors import Unreachable
from broker.kafka.address import KafkaAddress

TIMEOUT_MS = 10_000
_AGAIN_S = 0.1


class KafkaClients:
    """An admin client, and a consumer without a group that reads no records."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self.admin: Any = None
        self.probe: Any = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect to a broker; raises Unreachable."""
        async with self._opening:
            if self.admin is not None:
                return
            arguments = self._address.arguments
            admin = AIOKafkaAdminClient(**arguments)
            probe = AIOKafkaConsumer(**arguments, group_id=None, enable_auto_commit=False)
            try:
                await admin.start()
                await probe.start()
            except (KafkaError, OSError) as exc:
                await admin.close()
                await probe.stop()
                raise self._address.unreachable() from exc
            self.admin, self.probe = admin, probe

    async def close(self) -> None:
        """Close both clients."""
        if self.admin is not None:
            await asyncio.gather(self.admin.close(), self.probe.stop(), return_exceptions=True)
            self.admin = self.probe = None

    async def ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again until Kafka gives a final answer, at most `TIMEOUT_MS`; raises Unreachable.

        A broker that has just started, or a partition that moves, answers with an error that asks for another try.
        """
        if self.admin is None:
            raise Unreachable("this connection to Kafka is not open")
        try:
            async with asyncio.timeout(TIMEOUT_MS / 1000):
                while True:
                    try:
                        return await question()
                    except KafkaError as exc:
                        if not exc.retriable:
                            raise
                    await asyncio.sleep(_AGAIN_S)
        except (KafkaError, OSError, TimeoutError) as exc:
            raise self._address.unreachable() from exc
