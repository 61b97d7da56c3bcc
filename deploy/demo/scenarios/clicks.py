"""Simulates the clicks of a user with the cascade model of Craswell et al. 2008 and its usual parameters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RELEVANT, IRRELEVANT = 0.8, 0.05
LEAVES = 0.7


def clicks_on(relevant: Iterable[bool], random: np.random.Generator) -> list[int]:
    """Return the indices of the clicked items.

    The user looks at the items from the top, and leaves with probability LEAVES after each click.
    """
    clicked = []
    for place, is_relevant in enumerate(relevant):
        if random.random() < (RELEVANT if is_relevant else IRRELEVANT):
            clicked.append(place)
            if random.random() < LEAVES:
                break
    return clicked
