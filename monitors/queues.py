"""How much waits, in every queue that is known."""

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
    """Gauges of broker messages and of the requests inside them; a depth that cannot be had is NaN, not 0."""

    def __init__(self, broker: Broker, known: KnownVersions, registry: CollectorRegistry) -> None:
        self._broker = broker
        self._known = known
        names = ("queue", "kind")
        self._messages = Gauge("millrace_queue_messages", "Broker messages that are ready.", names, registry=registry)
        self._requests = Gauge("millrace_queue_requests", "Requests in these messages.", names, registry=registry)
        self._shown: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look every five seconds."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Ask for every depth once, and forget queues that are no longer known."""
        wanted = set(queues(self._broker.channels, self._known))
        for gone in self._shown - wanted:
            self._messages.remove(*gone)
            self._requests.remove(*gone)
        self._shown = wanted
        for queue, kind in sorted(wanted):
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
    """Return (queue without the prefix, kind): the kinds are requests, inputs, retry, dead and results."""

    def named(queue: str, kind: str) -> tuple[str, str]:
        return queue.removeprefix(channels.prefix), kind

    for model, version in known.versions():
        inputs = channels.inputs(model, version)
        lane = channels.retry(inputs)
        yield named(inputs, "inputs")
        yield named(lane, "retry")
        yield named(channels.dead(inputs), "dead")
    for endpoint in known.endpoints():
        yield named(channels.requests(endpoint), "requests")
        yield named(channels.results(endpoint), "results")
