"""Drawing an arm: a keyed hash of an identity, then a search in the cumulative probabilities.

The key is a secret: who knows it can choose an arm by choosing ids.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from broker.ids import uniform


def cumulative(probabilities: Sequence[float]) -> list[float]:
    """Return the running sums that `draw` searches; the last is exactly 1."""
    sums = list(accumulate(probabilities))
    last = max(arm for arm, probability in enumerate(probabilities) if probability > 0.0)
    return [*sums[:last], *[1.0] * (len(sums) - last)]


def draw(sums: Sequence[float], number: float) -> int:
    """Return the arm whose slice of [0, 1) holds `number`."""
    return bisect_right(sums, number)


def rendezvous(probabilities: Sequence[float], names: Sequence[str], key: bytes, salt: bytes, identity: bytes) -> int:
    """Return the arm with the least -ln(u)/p (weighted rendezvous hashing, Schindelhauer and Schomaker 2005).

    When one arm goes, only its own identities move; the draw has the probabilities exactly.
    """

    def distance(arm: int) -> float:
        if probabilities[arm] <= 0.0:
            return math.inf
        number = uniform(key, salt + b"\0" + names[arm].encode(), identity)
        return -math.log(number or 2.0**-54) / probabilities[arm]

    return min(range(len(names)), key=distance)
