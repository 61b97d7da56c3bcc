"""The line before one model's queue: requests that were drawn for it, and wait until the queue should have them.

Each arm of an endpoint has a line of its own, so that one whose replicas hang holds up no other.
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
from router.service.admission import Admission
from router.service.taken_request import TakenRequest

LOOK_S = 0.05
STUCK_S = 2.0  # an arm whose queue has taken nothing for so long, while requests wait for it

Part = tuple[Route, list[TakenRequest]]
Forward = Callable[[Route, list[TakenRequest]], Awaitable[int]]
"""Forwards requests, ends those that cannot be, and returns how many of them are in the queue."""

InTime = Callable[[list[TakenRequest]], list[TakenRequest]]
"""Ends the requests whose time is over, and returns the others."""


class ModelLine:
    """What waits for one queue, or is on its way into it."""

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
        self._admission = Admission(clock)
        self._parts: deque[Part] = deque()
        self._tasks = Tasks()
        self._moving: asyncio.Task[None] | None = None
        self._moved_s = clock()
        self._stopping = False
        self.held = 0
        """Requests that wait here or are on their way."""

    @property
    def is_stuck(self) -> bool:
        """Tell whether nothing has gone into the queue for a while, though something waits."""
        return self.held > 0 and self._clock() - self._moved_s > STUCK_S

    def put(self, route: Route, items: list[TakenRequest]) -> None:
        """Add requests of one route, not more than fit into a bundle."""
        if not self.held:
            self._moved_s = self._clock()
        self.held += len(items)
        self._parts.append((route, items))
        if self._moving is None or self._moving.done():
            self._moving = self._tasks.spawn(self._move(), f"line before {self._queue}")

    def stop(self) -> None:
        """Wait for no more room: what is in the line goes into the queue as it is."""
        self._stopping = True

    async def drain(self) -> None:
        """Wait until the line is empty."""
        await self._tasks.drain()

    async def _move(self) -> None:
        while self._parts:
            await self._until_room()
            if self._parts:
                route, items = self._parts.popleft()
                self._admission.leave(len(items))
                self._tasks.spawn(self._send(route, items), "forward")

    async def _until_room(self) -> None:
        admission = self._admission
        while admission.stale and self._parts and not self._stopping:
            try:
                depth = await self._broker.depth(self._queue)
            except TryAgain:
                return
            admission.look(depth.requests)
            if admission.room > 0:
                return
            await asyncio.sleep(LOOK_S)
            self._expire()

    def _expire(self) -> None:
        """End what waited for too long."""
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
            self._admission.arrive(arrived)
            self._admission.give_up(number - arrived)
            self.held -= number
            if arrived:
                self._moved_s = self._clock()
            self._moved()
