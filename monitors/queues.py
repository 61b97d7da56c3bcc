"""The depths of all known queues."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge

from broker.base import Broker
from broker.channels import Channels
from broker.errors import TryAgain
from monitors.known import KnownVersions

EVERY_S = 5.0
PATIENCE_S = 2.0


class QueueDepths:
    """Gauges of broker messages and of the requests in them; a depth that cannot be read is NaN, not 0."""

    def __init__(self, broker: Broker, known: KnownVersions, registry: CollectorRegistry) -> None:
        self._broker = broker
        self._known = known
        names = ("queue", "kind")
        self._messages = Gauge("millrace_queue_messages", "Broker messages that are ready.", names, registry=registry)
        self._requests = Gauge("millrace_queue_requests", "Requests in these messages.", names, registry=registry)
        self._shown: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Read all depths every five seconds."""
        while True:
            await self.update()
            await asyncio.sleep(EVERY_S)

    async def update(self) -> None:
        """Read every depth once, and remove queues that are no longer known."""
        current = set(queues(self._broker.channels, self._known))
        for removed in self._shown - current:
            self._messages.remove(*removed)
            self._requests.remove(*removed)
        self._shown = current
        for queue, kind in sorted(current):
            messages, requests = await self._depth(self._broker.channels.prefix + queue)
            self._messages.labels(queue, kind).set(messages)
            self._requests.labels(queue, kind).set(requests)

    async def _depth(self, queue: str) -> tuple[float, float]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                depth = await self._broker.depth(queue)
        except (TryAgain, TimeoutError):
            return math.nan, math.nan
        return depth.messages, depth.requests


def queues(channels: Channels, known: KnownVersions) -> Iterator[tuple[str, str]]:
    """Yield (queue without the prefix, kind); the kinds are inputs, retry, dead, requests and results."""

    def named(queue: str, kind: str) -> tuple[str, str]:
        return queue.removeprefix(channels.prefix), kind

    for model, version in known.versions():
        inputs = channels.inputs(model, version)
        yield named(inputs, "inputs")
        yield named(channels.retry(inputs), "retry")
        yield named(channels.dead(inputs), "dead")
    for endpoint in known.endpoints():
        yield named(channels.requests(endpoint), "requests")
        yield named(channels.results(endpoint), "results")
