"""How a user clicks: a cascade, as in Craswell et al. 2008, with the values that are usual in simulations of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

RELEVANT, IRRELEVANT = 0.8, 0.05
LEAVES = 0.7


def clicks_on(relevant: Iterable[bool], random: np.random.Generator) -> list[int]:
    """Return the places that are clicked in a list: seen from the top, until one leaves after a click."""
    clicked = []
    for place, is_relevant in enumerate(relevant):
        if random.random() < (RELEVANT if is_relevant else IRRELEVANT):
            clicked.append(place)
            if random.random() < LEAVES:
                break
    return clicked
