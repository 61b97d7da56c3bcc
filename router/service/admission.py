"""How many requests a router puts into a model's queue: about as many as the model processes in two seconds.

The others wait in front of the queue, where they can still expire or be ended, and delay no other endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable

AHEAD_S = 2.0
LEAST = 256  # requests: the limit before the first measurement
SLOWER = 0.3  # weight of a new measurement
FRESH_S = 0.25  # a measured depth is used for this long


class QueueAdmission:
    """One model's queue, as one router measures it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = 0.0
        self._depth = 0
        self._leaving = 0  # being published, not in the queue yet
        self._put = 0  # published since the last measurement
        self._measured_s = float("-inf")

    @property
    def room(self) -> int:
        """The number of requests that may be published before the depth is measured again."""
        return max(LEAST, int(AHEAD_S * self._rate)) - self._depth - self._put - self._leaving

    @property
    def is_stale(self) -> bool:
        """Whether the depth has to be measured again."""
        return self.room <= 0 or self._clock() - self._measured_s > FRESH_S

    def begin(self, requests: int) -> None:
        """Note that requests are being published."""
        self._leaving += requests

    def succeed(self, requests: int) -> None:
        """Note that requests which were being published are in the queue now."""
        self._leaving -= requests
        self._put += requests

    def fail(self, requests: int) -> None:
        """Note that requests which were being published will not be in the queue."""
        self._leaving -= requests

    def measure(self, depth: int) -> None:
        """Note the number of requests in the queue now: those that have left it were processed."""
        now = self._clock()
        took_s, drained = now - self._measured_s, self._depth + self._put - depth
        if 0.0 < took_s < float("inf") and drained >= 0:
            rate = drained / took_s
            if depth > 0:
                self._rate += SLOWER * (rate - self._rate)
            else:  # the queue ran empty meanwhile, so this rate is a lower bound
                self._rate = max(self._rate, rate)
        self._depth, self._put, self._measured_s = depth, 0, now
