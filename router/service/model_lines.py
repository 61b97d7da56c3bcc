"""The lines before the queues of one endpoint's models, and the limits of their lengths."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from broker.base import Broker
from broker.errors import QueueFull
from broker.protocol.bundle import BUNDLE_LIMIT_BYTES
from broker.protocol.header import Route
from router.service.bundle_forwarder import BundleForwarder
from router.service.model_line import ModelLine
from router.service.refusals import Refusals
from router.service.taken_request import TakenRequest
from router.state.view import View

LINE_LEAST = 8
STUCK_CHECK_S = 0.1


class ModelLines:
    """One line for each model queue of an endpoint. All lines together hold at most `limit` requests.

    While a queue moves, a full line makes the endpoint wait. A line whose queue is stuck holds up no other one:
    requests beyond its length end as `overloaded`.
    """

    def __init__(
        self,
        broker: Broker,
        view: View,
        endpoint: str,
        *,
        limit: int,
        forwarder: BundleForwarder,
        refusals: Refusals,
    ) -> None:
        self._broker = broker
        self._view = view
        self._endpoint = endpoint
        self._limit = limit
        self._forwarder = forwarder
        self._refusals = refusals
        self._lines: dict[str, ModelLine] = {}
        self._moved = asyncio.Event()
        self._stopping = False

    def put(self, queue: str, route: Route, items: list[TakenRequest]) -> None:
        """Put requests into the line of their queue; end those for which a stuck line has no room."""
        line = self._lines.get(queue) or self._begin_line(queue)
        arms = self._arms()
        room = max(0, self._length(arms) - line.held) if arms > 1 and line.is_stuck else len(items)
        for part in bundles(items[:room], self._view.versions.max_batch(route.model, route.version)):
            line.put(route, part)
        if items[room:]:
            waiting = f"{line.held} requests wait for {route.model}@{route.version} already, and none gets through"
            self._refusals.end(items[room:], QueueFull(waiting))

    async def wait_for_room(self) -> None:
        """Wait while a line that moves is full: more requests wait in the endpoint's own queue."""
        while not self._stopping and any(self._holds_up(line) for line in self._lines.values()):
            self._moved.clear()
            try:
                async with asyncio.timeout(STUCK_CHECK_S):
                    await self._moved.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Wait for no more room, and repeat no failed attempt: the rest goes to another router."""
        self._stopping = True
        self._forwarder.stop()
        self._moved.set()
        for line in self._lines.values():
            line.stop()

    async def drain(self) -> None:
        """Wait until all lines are empty."""
        for line in self._lines.values():
            await line.drain()

    def _begin_line(self, queue: str) -> ModelLine:
        line = self._lines[queue] = ModelLine(
            self._broker,
            queue,
            forward=partial(self._forwarder.forward, queue),
            in_time=self._forwarder.drop_expired,
            moved=self._moved.set,
        )
        return line

    def _holds_up(self, line: ModelLine) -> bool:
        arms = self._arms()
        return line.held >= self._length(arms) and not (line.is_stuck and arms > 1)

    def _length(self, arms: int) -> int:
        return max(LINE_LEAST, self._limit // arms)

    def _arms(self) -> int:
        declared = self._view.declaration(self._endpoint)
        return len(declared.arms) if declared is not None else 1


def bundles(items: Sequence[TakenRequest], limit: int) -> Iterator[list[TakenRequest]]:
    """Cut items into bundles: at most `limit` requests, and no more bytes than a bundle should have."""
    part: list[TakenRequest] = []
    size = 0
    for item in items:
        length = len(item.request.body)
        if part and (len(part) >= limit or size + length > BUNDLE_LIMIT_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part
