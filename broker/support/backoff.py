"""Waits before something that failed is tried again: a fixed one, and waits that double from the first to a limit."""

from __future__ import annotations

import random

TRY_AGAIN_S = 0.5
"""The wait of a background task before it asks the broker or a disk again. A wait within a request uses `Backoff`."""
_DOUBLINGS_LIMIT = 16


class Backoff:
    """The next waits of one caller. Jitter spreads them, so that many processes do not try again at once."""

    def __init__(
        self, *, first_s: float, longest_s: float, jitter: float = 0.0, generator: random.Random | None = None
    ) -> None:
        """`jitter` is the share of each wait that is drawn at random: 0 for exact waits, 1 for waits from 0 on."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._generator = generator or random.Random()  # noqa: S311 - jitter is no secret
        self._tries = 0

    def reset(self) -> None:
        """Start again from the shortest wait."""
        self._tries = 0

    def next_s(self) -> float:
        """Return the next wait in seconds; the one after it is twice as long, up to the limit."""
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self._tries, _DOUBLINGS_LIMIT))
        self._tries += 1
        return wait_s * (1.0 - self._jitter + self._jitter * self._generator.random())
