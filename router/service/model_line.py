"""The line in front of one model's queue: requests that wait until the queue has room.

Each arm of an endpoint has a line of its own, so that an arm whose replicas hang delays no other arm.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from broker.base import Broker
from broker.errors import TryAgain
from broker.protocol.header import Route
from broker.support.tasks import Tasks
from router.service.admission import QueueAdmission
from router.service.taken_request import TakenRequest

CHECK_S = 0.05
STUCK_S = 2.0  # a queue is stuck if it takes nothing for this long while requests wait for it

Part = tuple[Route, list[TakenRequest]]
Forward = Callable[[Route, list[TakenRequest]], Awaitable[int]]
"""Forwards requests, ends those that cannot be forwarded, and returns the number that is in the queue."""

InTime = Callable[[list[TakenRequest]], list[TakenRequest]]
"""Ends the requests whose deadline has passed, and returns the others."""


class ModelLine:
    """The requests that wait for one queue, or are being published to it."""

    def __init__(
        self,
        broker: Broker,
        queue: str,
        *,
        forward: Forward,
        in_time: InTime,
        moved: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`moved` is called whenever requests have left the line."""
        self._broker = broker
        self._queue = queue
        self._forward = forward
        self._in_time = in_time
        self._moved = moved
        self._clock = clock
        self._admission = QueueAdmission(clock)
        self._parts: deque[Part] = deque()
        self._tasks = Tasks()
        self._moving: asyncio.Task[None] | None = None
        self._moved_s = clock()
        self._stopping = False
        self.held = 0
        """The number of requests that wait here or are being published."""

    @property
    def is_stuck(self) -> bool:
        """Whether the queue has taken nothing for `STUCK_S` although requests wait."""
        return self.held > 0 and self._clock() - self._moved_s > STUCK_S

    def put(self, route: Route, items: list[TakenRequest]) -> None:
        """Add requests of one route, at most as many as fit into a bundle."""
        if not self.held:
            self._moved_s = self._clock()
        self.held += len(items)
        self._parts.append((route, items))
        if self._moving is None or self._moving.done():
            self._moving = self._tasks.spawn(self._move(), f"line before {self._queue}")

    def stop(self) -> None:
        """Wait for no more room: the requests in the line are published at once."""
        self._stopping = True

    async def drain(self) -> None:
        """Wait until the line is empty."""
        await self._tasks.drain()

    async def _move(self) -> None:
        while self._parts:
            await self._until_room()
            if self._parts:
                route, items = self._parts.popleft()
                self._admission.begin(len(items))
                self._tasks.spawn(self._send(route, items), "forward")

    async def _until_room(self) -> None:
        admission = self._admission
        while admission.is_stale and self._parts and not self._stopping:
            try:
                depth = await self._broker.depth(self._queue)
            except TryAgain:
                return
            admission.measure(depth.requests)
            if admission.room > 0:
                return
            await asyncio.sleep(CHECK_S)
            self._expire()

    def _expire(self) -> None:
        """End the requests whose deadline has passed."""
        before = self.held
        for _ in range(len(self._parts)):
            route, items = self._parts.popleft()
            left = self._in_time(items)
            self.held -= len(items) - len(left)
            if left:
                self._parts.append((route, left))
        if self.held < before:
            self._moved()

    async def _send(self, route: Route, items: list[TakenRequest]) -> None:
        number = len(items)
        arrived = 0
        try:
            arrived = await self._forward(route, items)
        finally:
            self._admission.succeed(arrived)
            self._admission.fail(number - arrived)
            self.held -= number
            if arrived:
                self._moved_s = self._clock()
            self._moved()
