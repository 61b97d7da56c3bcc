"""Draws an arm: a keyed hash of an identity, then a search in the cumulative probabilities.

The key is a secret: a client that knows it can choose an arm by choosing ids.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from broker.protocol.ids import uniform_for


def cumulative(probabilities: Sequence[float]) -> list[float]:
    """Return the running sums that `draw` searches: exactly 1 from the last arm with a positive probability on."""
    sums = list(accumulate(probabilities))
    last = len(sums) - 1
    while probabilities[last] <= 0.0:
        sums[last] = 1.0
        last -= 1
    sums[last] = 1.0
    return sums


def draw(sums: Sequence[float], number: float) -> int:
    """Return the arm whose slice of [0, 1) holds `number`."""
    return bisect_right(sums, number)


def rendezvous(names: Sequence[str], key: bytes, salt: bytes) -> Callable[[Sequence[float], bytes], int]:
    """Return a function that draws an arm by weighted rendezvous hashing (Schindelhauer and Schomaker 2005).

    It takes the probabilities and an identity, and returns the arm with the least -ln(u)/p, where u is drawn for each
    arm. If one arm disappears, only its own identities move. The draw has exactly the given probabilities.
    """
    drawers = [uniform_for(key, salt + b"\0" + name.encode()) for name in names]

    def draw_arm(probabilities: Sequence[float], identity: bytes) -> int:
        nearest, least = 0, math.inf
        for arm, probability in enumerate(probabilities):
            if probability > 0.0:
                distance = -math.log(drawers[arm](identity) or 2.0**-54) / probability
                if distance < least:
                    nearest, least = arm, distance
        return nearest

    return draw_arm
