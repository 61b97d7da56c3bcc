"""Serves the retry queue of a replica: each request runs alone, so that a death counts against exactly one request."""

from __future__ import annotations

import asyncio

from broker.base import Broker
from broker.errors import TryAgain
from processors.pipeline import Pipeline

DEPTH_EVERY_S = 1.0
TAKE_WITHIN_S = 1.0


class RetryService:
    """The retry queue of one pipeline. It must be served only while the pipeline holds nothing else."""

    def __init__(self, broker: Broker, pipeline: Pipeline) -> None:
        self.queue = broker.channels.retry(pipeline.queue)
        self._broker = broker
        self._pipeline = pipeline

    async def wait(self) -> None:
        """Wait until the retry queue holds a request."""
        while not await self._depth():  # noqa: ASYNC110 - brokers give depths only on request
            await asyncio.sleep(DEPTH_EVERY_S)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run one request after the other until the queue is empty or `stop` is set."""
        consumer = self._broker.consume(self.queue, 1)
        try:
            while not stop.is_set() and await self._depth():
                try:
                    async with asyncio.timeout(TAKE_WITHIN_S):
                        deliveries = await consumer.take(1)
                except TimeoutError:
                    continue
                for delivery in deliveries:
                    await self._pipeline.run_alone(delivery)
        finally:
            await consumer.stop()
        # A broker that sends ahead no longer counts the last delivery, although it is not taken yet.
        while deliveries := await consumer.take(1):
            for delivery in deliveries:
                await self._pipeline.run_alone(delivery)

    async def _depth(self) -> int:
        try:
            return (await self._broker.depth(self.queue)).messages
        except TryAgain:
            return 0
