"""A merged list, and the credit of each ranker for a click in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count

from broker.errors import InvalidRequest
from broker.protocol.ids import uniform

Draw = Callable[[], float]
Credit = tuple[float, ...]

ITEMS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class PlacedList:
    """A list merged from several rankings, with everything that is needed to credit a later click.

    Per item: its rank in each ranking (from 1; 0 where it is absent), and the credit of each ranker for a click on it,
    in [0, 1]. All credits are 0 below the length of the shortest ranking: a ranker had no items left there, and the
    others would be preferred only for being longer.
    """

    method: str
    items: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    credits: tuple[Credit, ...]


def credit(placed: PlacedList, item: str) -> Credit:
    """Return each ranker's credit for one click on `item`. Raises InvalidRequest if it was not in the list."""
    return placed.credits[_position(placed, item)]


def credits_of(placed: PlacedList, clicked: Collection[str]) -> Credit:
    """Return each ranker's credit for all the clicks that one list got; a second click on an item adds nothing.

    It is the sum over the items, but for `balanced`: there only the best k of each ranking count, where k is the better
    rank of the lowest item that was clicked (Chapelle et al. 2012, section 3.1). Raises InvalidRequest like `credit`.
    """
    positions = sorted({_position(placed, item) for item in clicked})
    positions = [position for position in positions if any(placed.credits[position])]
    rankers = range(len(placed.credits[0]))
    if placed.method != "balanced" or not positions:
        return tuple(sum(placed.credits[position][ranker] for position in positions) for ranker in rankers)
    best = min(rank for rank in placed.ranks[positions[-1]] if rank)
    ranks = [placed.ranks[position] for position in positions]
    return tuple(float(sum(0 < rank[ranker] <= best for rank in ranks)) for ranker in rankers)


def _position(placed: PlacedList, item: str) -> int:
    try:
        return placed.items.index(item)
    except ValueError:
        raise InvalidRequest(f"item {str(item)[:80]!r} was not in the list that was shown") from None


def stream(key: bytes, salt: bytes, identity: bytes) -> Draw:
    """Return a source of numbers in [0, 1) that is the same for the same identity, by the keyed hash of `uniform`."""
    numbers = count()
    return lambda: uniform(key, salt + b"\0interleave" + next(numbers).to_bytes(4, "big"), identity)


@dataclass(frozen=True, slots=True)
class CheckedRankings:
    """Checked rankings: two or more lists of different items each, the best item first."""

    lists: tuple[Sequence[str], ...]
    ranks: tuple[dict[str, int], ...]

    @property
    def shortest(self) -> int:
        """The length of the shortest ranking."""
        return min(map(len, self.lists))

    def of(self, item: str) -> tuple[int, ...]:
        """Return the item's rank in each ranking, from 1; 0 where it is absent."""
        return tuple(ranks.get(item, 0) for ranks in self.ranks)


def checked(rankings: Sequence[Sequence[str]]) -> CheckedRankings:
    """Return checked rankings; raises InvalidRequest if they cannot be merged."""
    if len(rankings) < 2:
        raise InvalidRequest(f"{len(rankings)} rankings: two or more are compared")
    for number, ranking in enumerate(rankings):
        _check(number, ranking)
    ranks = tuple({item: rank for rank, item in enumerate(ranking, 1)} for ranking in rankings)
    for number, (ranking, known) in enumerate(zip(rankings, ranks, strict=True)):
        if len(known) != len(ranking):
            twice = next(item for rank, item in enumerate(ranking, 1) if known[item] != rank)
            raise InvalidRequest(f"ranking {number} holds {twice[:80]!r} twice: an item has one rank")
    return CheckedRankings(tuple(rankings), ranks)


def _check(number: int, ranking: object) -> None:
    """Raise InvalidRequest unless a model's ranking is a list of strings that is not too long."""
    if isinstance(ranking, (str, bytes)) or not isinstance(ranking, Sequence):
        raise InvalidRequest(f"ranking {number} is not a list of item ids, but {type(ranking).__name__}")
    if not 1 <= len(ranking) <= ITEMS_LIMIT:
        raise InvalidRequest(f"ranking {number} has {len(ranking)} items: it has 1 to {ITEMS_LIMIT}")
    if not all(isinstance(item, str) for item in ranking):
        raise InvalidRequest(f"ranking {number} is not a list of item ids: each is a string")
