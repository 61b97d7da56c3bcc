"""The rate of answers over about the last seconds, for saying how long what waits will take."""

from __future__ import annotations

import math

OVER_S = 3.0
LONGEST_S = 60.0
UNKNOWN_S = 1.0


class AnswerRate:
    """An exponentially weighted rate. Time in which nobody waited does not count: it says nothing."""

    def __init__(self) -> None:
        self._answers = 0.0  # the older the less they count
        self._seconds = 0.0  # and the time they took

    def observe(self, answers: int, seconds: float) -> None:
        """Note answers, and the time in which they came."""
        kept = math.exp(-seconds / OVER_S)
        self._answers = kept * self._answers + answers
        self._seconds = kept * self._seconds + seconds

    def drain_s(self, waiting: int) -> float:
        """Return how long what waits takes to be answered, at most `LONGEST_S`."""
        return min(LONGEST_S, waiting * self._seconds / self._answers) if self._answers > 0 else UNKNOWN_S
