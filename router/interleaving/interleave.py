"""Merges several rankings into one list, by one of four methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.interleaving.drafts import balanced, team_draft
from router.interleaving.optimized import optimized
from router.interleaving.placed import CheckedRankings, Credit, Draw, PlacedList, checked
from router.interleaving.probabilistic import probabilistic

LENGTH_LIMIT = 1000
RANKERS_LIMIT = 16

METHODS: dict[str, Callable[[CheckedRankings, int, Draw], dict[str, Credit]]] = {
    "team_draft": team_draft,
    "balanced": balanced,
    "probabilistic": probabilistic,
    "optimized": optimized,
}
OF_TWO = ("balanced", "optimized")


def check_method(method: str, rankers: int, length: int) -> None:
    """Raise ValueError for an unknown method, or one that cannot compare so many rankers in so long a list."""
    if method not in METHODS:
        raise ValueError(f"method {method!r}: known methods are {', '.join(METHODS)}")
    most = 2 if method in OF_TWO else RANKERS_LIMIT
    if not 2 <= rankers <= most:
        raise ValueError(f"method {method!r}: {rankers} rankers; it compares {'2' if most == 2 else f'2 to {most}'}")
    if not 1 <= length <= LENGTH_LIMIT:
        raise ValueError(f"length {length!r}: a list has 1 to {LENGTH_LIMIT} positions")


def interleave(
    rankings: Sequence[Sequence[str]], method: str = "team_draft", length: int = 10, *, draw: Draw
) -> PlacedList:
    """Return a list of at most `length` items, merged from the best items of two or more rankings.

    It is shorter only if the rankings hold fewer items. `draw` yields numbers in [0, 1): `placed.stream` for requests,
    so that a retry gets the same list; a generator's `random` in simulations. Raises InvalidRequest for rankings that
    are empty, hold an item twice, or hold more than 10 000; ValueError like `check_method`.
    """
    check_method(method, max(len(rankings), 2), length)
    known = checked(rankings)
    placed = METHODS[method](known, length, draw)
    ranks = tuple(known.of(item) for item in placed)
    return PlacedList(method, tuple(placed), ranks, tuple(placed.values()))
