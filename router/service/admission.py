"""How much a router puts into a model's queue: about two seconds of what that queue drains; the rest waits before it.

What waits before the model's queue can still be cancelled, or go elsewhere, and holds up no other endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable

AHEAD_S = 2.0
LEAST = 256  # requests: so much goes in before anything is known
SLOWER = 0.3  # weight of a new measurement
FRESH_S = 0.25  # a look at the depth holds for so long


class Admission:
    """One model's queue as one router sees it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = 0.0
        self._depth = 0
        self._leaving = 0  # on their way into the queue: not there yet
        self._put = 0  # since the last look
        self._looked_s = float("-inf")

    @property
    def room(self) -> int:
        """How many requests may go in before somebody has to look again."""
        return max(LEAST, int(AHEAD_S * self._rate)) - self._depth - self._put - self._leaving

    @property
    def stale(self) -> bool:
        """Tell whether it is time to look at the depth."""
        return self.room <= 0 or self._clock() - self._looked_s > FRESH_S

    def leave(self, requests: int) -> None:
        """Note requests that are being published."""
        self._leaving += requests

    def arrive(self, requests: int) -> None:
        """Note that requests which were being published are in the queue."""
        self._leaving -= requests
        self._put += requests

    def give_up(self, requests: int) -> None:
        """Note that requests which were being published will never be in the queue."""
        self._leaving -= requests

    def look(self, depth: int) -> None:
        """Note how many requests wait in the queue now: what is gone of those that were put there was drained."""
        now = self._clock()
        took_s, drained = now - self._looked_s, self._depth + self._put - depth
        if 0.0 < took_s < float("inf") and drained >= 0:
            rate = drained / took_s
            if depth > 0:
                self._rate += SLOWER * (rate - self._rate)
            else:  # it ran dry meanwhile, so it can do at least that
                self._rate = max(self._rate, rate)
        self._depth, self._put, self._looked_s = depth, 0, now
