"""Lists merged from several rankings: their items, their order, and the owner of each item."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import InvalidRequest
from router.interleaving.drafts import team_draft
from router.interleaving.interleave import LENGTH_LIMIT, METHODS, OF_TWO, RANKERS_LIMIT, interleave
from router.interleaving.placed import ITEMS_LIMIT, Credit, Draw, checked, credit, credits_of, stream

ANY_NUMBER = [method for method in METHODS if method not in OF_TWO]
OF_TOPS = [method for method in METHODS if method != "probabilistic"]
A, B = list("abcd"), list("bcda")


def seeded(seed: int = 1) -> Draw:
    return random.Random(seed).random  # noqa: S311 (not a secret)


def rankings(rankers: int) -> st.SearchStrategy[list[list[str]]]:
    items = st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=14, unique=True)
    return st.lists(items, min_size=rankers, max_size=rankers)


def is_some_ranking_s_best(lists: list[list[str]], before: tuple[str, ...], item: str) -> bool:
    return any(next((one for one in ranking if one not in before), None) == item for ranking in lists)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(lists=rankings(2), length=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_a_list_is_as_long_as_it_can_be_and_holds_nothing_twice(
    method: str, lists: list[list[str]], length: int, seed: int
) -> None:
    placed = interleave(lists, method, length, draw=seeded(seed))
    every = set().union(*lists)
    assert len(set(placed.items)) == len(placed.items) == min(length, len(every))
    assert set(placed.items) <= every
    for item, ranks in zip(placed.items, placed.ranks, strict=True):
        assert ranks == tuple(one.index(item) + 1 if item in one else 0 for one in lists)
    assert all(len(part) == 2 and all(0.0 <= number <= 1.0 for number in part) for part in placed.credits)
    if method in OF_TOPS:
        assert all(is_some_ranking_s_best(lists, placed.items[:k], item) for k, item in enumerate(placed.items))


@pytest.mark.parametrize("method", ANY_NUMBER)
@settings(max_examples=40, deadline=None)
@given(lists=rankings(4), length=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_four_rankings_are_exhausted_just_so(method: str, lists: list[list[str]], length: int, seed: int) -> None:
    placed = interleave(lists, method, length, draw=seeded(seed))
    assert len(set(placed.items)) == len(placed.items) == min(length, len(set().union(*lists)))
    for position, part in enumerate(placed.credits):
        contested = position < min(map(len, lists))
        assert sum(part) == pytest.approx(1.0 if contested else 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_identity_gets_the_same_list_and_another_may_not(method: str) -> None:
    def of(identity: bytes, key: bytes = b"secret") -> tuple[tuple[str, ...], tuple[Credit, ...]]:
        placed = interleave([A, B], method, 4, draw=stream(key, b"experiment", identity))
        return placed.items, placed.credits

    assert of(b"one") == of(b"one")
    assert len({of(str(number).encode()) for number in range(50)}) > 1
    assert [of(str(n).encode()) for n in range(50)] != [of(str(n).encode(), b"other") for n in range(50)]


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("team_draft", "bacd bacd abcd"),
        ("balanced", "abcd abcd bacd"),
        ("probabilistic", "abdc adcb bdac"),
    ],
)
def test_lists_are_the_same_as_in_earlier_versions(method: str, known: str) -> None:
    """A retry may meet a newer version: the first lists of one experiment, written down."""
    draws = [stream(b"key", b"experiment", identity) for identity in (b"first", b"second", b"third")]
    assert " ".join("".join(interleave([A, B], method, 4, draw=draw).items) for draw in draws) == known


@pytest.mark.parametrize("method", METHODS)
def test_only_as_many_positions_as_the_shortest_ranking_has_earn_anything(method: str) -> None:
    for seed in range(20):
        placed = interleave([list("abcdefgh"), list("xby")], method, 8, draw=seeded(seed))
        assert all(any(part) for part in placed.credits[:3])
        assert not any(any(part) for part in placed.credits[3:])


def test_the_owner_of_each_position_is_a_coin() -> None:
    """200 000 lists: one of the 4 shares is outside [.495, .505], 4.5 standard errors, once in 30 000 seeds."""
    number, draw, known = 200_000, seeded(2), checked([A, B])
    lists = Counter(tuple(part[0] for part in team_draft(known, 4, draw).values()) for _ in range(number))
    for position in range(4):
        owned = sum(times for owners, times in lists.items() if owners[position])
        assert 0.495 <= owned / number <= 0.505


@pytest.mark.parametrize("method", METHODS)
def test_of_two_equal_rankers_none_wins_more(method: str) -> None:
    """Every click is at a random position of a list of equal rankings: within 4 standard errors (6e-5) of half."""
    random_clicks, draw, number = random.Random(3), seeded(4), 4000  # noqa: S311
    same, wins, decided = list("abcdefg"), 0, 0
    for _ in range(number):
        placed = interleave([same, same], method, 5, draw=draw)
        first, second = credit(placed, random_clicks.choice(placed.items))
        assert method == "team_draft" or first == pytest.approx(second)
        wins, decided = wins + (first > second), decided + (first != second)
    assert abs(wins - decided / 2) <= 4 * math.sqrt(decided) / 2


def test_team_draft_of_many_gives_every_ranker_one_place_a_round() -> None:
    lists = [[f"{ranker}.{item}" for item in range(5)] for ranker in range(5)]
    placed = interleave(lists, "team_draft", 25, draw=seeded())
    owners = [item.split(".")[0] for item in placed.items]
    assert all(sorted(owners[start : start + 5]) == list("01234") for start in range(0, 25, 5))
    assert [part.index(1.0) for part in placed.credits[:5]] == [int(owner) for owner in owners[:5]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(20)
def test_ten_thousand_items_take_no_long_time(method: str) -> None:
    long = [str(item) for item in range(ITEMS_LIMIT)]
    placed = interleave([long, long[::-1]], method, LENGTH_LIMIT, draw=seeded())
    assert len(set(placed.items)) == LENGTH_LIMIT
    assert credits_of(placed, placed.items) == pytest.approx(credits_of(placed, list(placed.items) * 2))


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
@pytest.mark.parametrize("method", METHODS)
def test_the_least_and_the_greatest_draw_are_good_for_a_list(method: str, number: float) -> None:
    assert sorted(interleave([A, B], method, 4, draw=lambda: number).items) == A


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ([], "two or more"),
        ([A], "two or more"),
        ([A, []], "ranking 1 has 0 items"),
        ([A, ["x", "y", "x"]], "ranking 1 holds 'x' twice"),
        ([A, "abcd"], "not a list of item ids"),
        ([[1, 2], A], "ranking 0 is not a list"),
        ([A, [["a"]]], "ranking 1 is not a list"),
        ([A, [None]], "not a list"),
        ([A, None], "but NoneType"),
        ([{"a": 1}, A], "but dict"),
        ([A, [str(item) for item in range(ITEMS_LIMIT + 1)]], "10001 items"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_rankings_that_make_no_sense_are_refused(method: str, lists: list[list[str]], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        interleave(lists, method, 4, draw=seeded())


@pytest.mark.parametrize(
    ("method", "rankers", "length", "says"),
    [
        ("magic", 2, 4, "known methods are team_draft"),
        ("team_draft", 2, 0, "1 to 1000"),
        ("team_draft", 2, LENGTH_LIMIT + 1, "1 to 1000"),
        ("balanced", 3, 4, "it compares 2$"),
        ("optimized", 3, 4, "it compares 2$"),
        ("probabilistic", RANKERS_LIMIT + 1, 4, "2 to 16"),
    ],
)
def test_methods_that_cannot_do_it_are_refused(method: str, rankers: int, length: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        interleave([A] * rankers, method, length, draw=seeded())


@pytest.mark.parametrize("item", ["e", "", "x" * 1000])
def test_a_click_on_an_item_outside_the_list_is_refused(item: str) -> None:
    placed = interleave([A, B], length=2, draw=seeded())
    with pytest.raises(InvalidRequest, match="was not in the list"):
        credit(placed, item)
    with pytest.raises(InvalidRequest, match="was not in the list"):
        credits_of(placed, [placed.items[0], item])
