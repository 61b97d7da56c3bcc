"""The rate of answers over the last few seconds, from which the time to drain follows."""

from __future__ import annotations

import math

OVER_S = 3.0
LONGEST_S = 60.0
UNKNOWN_S = 1.0


class AnswerRate:
    """An exponentially weighted rate. Time without waiting requests does not count."""

    def __init__(self) -> None:
        self._answers = 0.0  # weighted: older ones count less
        self._seconds = 0.0  # in which they arrived, weighted likewise

    def observe(self, answers: int, seconds: float) -> None:
        """Add a number of answers and the seconds in which they arrived."""
        kept = math.exp(-seconds / OVER_S)
        self._answers = kept * self._answers + answers
        self._seconds = kept * self._seconds + seconds

    def drain_s(self, waiting: int) -> float:
        """Seconds until `waiting` requests are answered, at most `LONGEST_S`; `UNKNOWN_S` before the first answer."""
        return min(LONGEST_S, waiting * self._seconds / self._answers) if self._answers > 0 else UNKNOWN_S
