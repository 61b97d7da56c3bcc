"""Lists that rankers build in turns: team draft, for any number of them, and balanced, for two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router.interleaving.placed import CheckedRankings, Credit, Draw


def team_draft(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: the ranker that placed an item gets all of it.

    In each round, in a random order, every ranker places its best item that is not in the list yet (Radlinski, Kurup
    and Joachims 2008; Schuth et al. 2014 for more than two).
    """
    return drafted(rankings, {}, length, draw, credited=rankings.shortest)


def drafted(
    rankings: CheckedRankings, placed: dict[str, Credit], length: int, draw: Draw, *, credited: int
) -> dict[str, Credit]:
    """Return `placed` filled up to `length` by a team draft; only the first `credited` positions earn anything."""
    placed = dict(placed)
    rankers = len(rankings.lists)
    owners = [tuple(float(ranker == other) for other in range(rankers)) for ranker in range(rankers)]
    no_credit = (0.0,) * rankers
    picks = [_unplaced(ranking, placed) for ranking in rankings.lists]
    before = -1
    while before < len(placed) < length:
        before = len(placed)
        for ranker in shuffled(rankers, draw):
            item = next(picks[ranker], None) if len(placed) < length else None
            if item is not None:
                placed[item] = owners[ranker] if len(placed) < credited else no_credit
    return placed


def shuffled(number: int, draw: Draw) -> list[int]:
    """Return 0 to `number` - 1 in an order drawn uniformly, by `number` - 1 draws (Fisher and Yates)."""
    order = list(range(number))
    for last in range(number - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def balanced(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: the ranker with the higher rank gets all of it, both if the ranks are equal.

    The ranker that has used fewer of its items is next, and one draw decides ties (Joachims 2003). It prefers a ranking
    that equals the other one moved up by one, for any clicks: use it to compare with published measurements only.
    """
    first = int(draw() * 2)
    taken = {0: 0, 1: 0}
    placed: dict[str, Credit] = {}
    while len(placed) < length and (able := [one for one in taken if taken[one] < len(rankings.lists[one])]):
        ranker = min(able, key=lambda one: (taken[one], one != first))
        item = rankings.lists[ranker][taken[ranker]]
        taken[ranker] += 1
        if item not in placed:
            placed[item] = _to_the_higher(rankings.of(item)) if len(placed) < rankings.shortest else (0.0, 0.0)
    return placed


def _to_the_higher(ranks: tuple[int, ...]) -> Credit:
    best = min(rank for rank in ranks if rank)
    return tuple(float(rank == best) for rank in ranks)


def _unplaced(ranking: Sequence[str], placed: dict[str, Credit]) -> Iterator[str]:
    """Yield a ranking's items in order, without those that are in the list by then."""
    return (item for item in ranking if item not in placed)
