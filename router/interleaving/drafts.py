"""Lists that rankers build in turns: team draft, for any number of them, and balanced, for two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router.interleaving.placed import CheckedRankings, Credit, Draw


def team_draft(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: all of it to the ranker that placed the item.

    In each round, in an order drawn anew, every ranker places its best item that is not there yet (Radlinski, Kurup and
    Joachims 2008; Schuth et al. 2014 for more than two).
    """
    return drafted(rankings, {}, length, draw, credited=rankings.shortest)


def drafted(
    rankings: CheckedRankings, placed: dict[str, Credit], length: int, draw: Draw, *, credited: int
) -> dict[str, Credit]:
    """Return `placed` filled up to `length` by a team draft; only the first `credited` positions earn anything."""
    placed = dict(placed)
    rankers = len(rankings.lists)
    owners = [tuple(float(ranker == other) for other in range(rankers)) for ranker in range(rankers)]
    nobody = (0.0,) * rankers
    picks = [_unplaced(ranking, placed) for ranking in rankings.lists]
    there = -1
    while there < len(placed) < length:
        there = len(placed)
        for ranker in shuffled(rankers, draw):
            item = next(picks[ranker], None) if len(placed) < length else None
            if item is not None:
                placed[item] = owners[ranker] if len(placed) < credited else nobody
    return placed


def shuffled(number: int, draw: Draw) -> list[int]:
    """Return 0 to `number` - 1 in an order drawn uniformly, by `number` - 1 draws (Fisher and Yates)."""
    order = list(range(number))
    for last in range(number - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def balanced(rankings: CheckedRankings, length: int, draw: Draw) -> dict[str, Credit]:
    """Return items with their credits: all of it to the ranker that has the item higher, to both if they agree.

    Who looked at fewer of its items is next, and one draw says who is first (Joachims 2003). It prefers a ranking that
    is the other's moved up by one, whatever is clicked: for comparison with what others measured, not for decisions.
    """
    first = int(draw() * 2)
    taken = {0: 0, 1: 0}
    placed: dict[str, Credit] = {}
    while len(placed) < length and (able := [who for who in taken if taken[who] < len(rankings.lists[who])]):
        ranker = min(able, key=lambda who: (taken[who], who != first))
        item = rankings.lists[ranker][taken[ranker]]
        taken[ranker] += 1
        if item not in placed:
            placed[item] = _to_the_higher(rankings.of(item)) if len(placed) < rankings.shortest else (0.0, 0.0)
    return placed


def _to_the_higher(ranks: tuple[int, ...]) -> Credit:
    best = min(rank for rank in ranks if rank)
    return tuple(float(rank == best) for rank in ranks)


def _unplaced(ranking: Sequence[str], placed: dict[str, Credit]) -> Iterator[str]:
    """Yield a ranking's items in order, without those that are placed by then."""
    return (item for item in ranking if item not in placed)
