"""Votes for rankers: the same in any order, never proven too often, and proven when there is something to prove."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from router.interleaving.interleave import interleave
from router.interleaving.placed import credit
from router.interleaving.preference import BETS, COSTS, Ballot, Preference, Votes
from router.stats.arrays import ONE, Floats, Ints

ALPHA = 0.05


def folded(test: Preference, difference: Floats) -> Votes:
    """Count differences (runs, votes) of two rankers, all at once."""
    runs, votes = difference.shape
    vote = np.stack([np.maximum(difference, 0.0), np.maximum(-difference, 0.0)], axis=-1).reshape(-1, 2)
    return test.fold(test.start(runs), np.repeat(np.arange(runs), votes), vote)


def same(one: Votes, other: Votes) -> bool:
    return [part.tobytes() for part in astuple(one)] == [part.tobytes() for part in astuple(other)]


def three_way_votes(number: int = 400) -> tuple[Ints, Floats]:
    random = np.random.default_rng(1)
    return random.integers(5, size=number), random.random((number, 3)) * random.integers(2, size=(number, 1))


def test_any_order_any_batches_and_any_number_of_runs_give_the_same_bytes() -> None:
    run, vote = three_way_votes()
    test = Preference(3)
    whole, mixed = test.fold(test.start(5), run, vote), test.start(5)
    for places in np.array_split(np.random.default_rng(2).permutation(len(run)), 7):
        mixed = test.fold(mixed, run[places], vote[places])
    assert same(whole, mixed)
    for each in range(5):
        own = run == each
        one = test.fold(test.start(1), np.zeros(int(own.sum()), np.int64), vote[own])
        assert same(one, Votes(*(part[each : each + 1] for part in astuple(whole))))
        assert test.log_wealth(one)[0].tobytes() == test.log_wealth(whole)[each].tobytes()


def test_a_ballot_is_the_same_in_any_order_and_its_vote_is_the_mean() -> None:
    clicks = [(0.1, 0.9), (1.0, 0.0), (1 / 3, 2 / 3), (0.2, 0.8)]
    there = back = Ballot((0, 0))
    for click in clicks:
        there = there.with_clicks(click)
    for click in reversed(clicks):
        back = back.with_clicks(click)
    assert there == back
    assert there.vote() == pytest.approx(np.mean(clicks, axis=0), abs=1e-6)
    assert there.with_clicks((2.0, 0.0), 3).clicks == 7
    assert Ballot((0, 0)).vote() == (0.0, 0.0)


def test_no_bet_can_gain_on_average_when_the_rankers_are_equal() -> None:
    """exp(b x - (-ln(1 - b) - b) x**2) <= 1 + b x for every x >= -1: the expected factor is at most 1."""
    x = np.linspace(-1.0, 1.0, 20_001)[:, None]
    assert (np.exp(BETS * x - COSTS * x * x) <= 1.0 + BETS * x + 1e-12).all()
    assert BETS.max() <= 0.55


def test_the_wealth_is_the_mean_over_bets_of_the_product_over_votes() -> None:
    difference = np.random.default_rng(3).choice([-1.0, -0.25, 0.0, 0.5, 1.0], size=60)
    bets = np.geomspace(0.002, 0.5, 16)
    wealth = [
        np.mean(
            [np.prod([math.exp(b * x + (math.log(1 - b) + b) * x * x) for x in sign * difference / 2]) for b in bets]
        )
        for sign in (1, -1)
    ]
    test = Preference(2)
    found = test.log_wealth(folded(test, difference[None]))[0, 0]
    assert found == pytest.approx(math.log(max(wealth) / 2.0), abs=1e-5)


def test_squares_are_rounded_up_so_that_nothing_is_proven_by_rounding() -> None:
    test = Preference(2)
    state = test.fold(test.start(1), np.zeros(3, np.int64), np.array([[3 / ONE, 0.0], [0.0, 1 / ONE], [0.5, 0.5]]))
    assert (state.units[0], state.differences[0, 0], state.squares[0, 0]) == (3, 2, 2)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_limits_are_where_the_wealth_of_each_side_is_two_over_alpha(alpha: float) -> None:
    difference = np.random.default_rng(8).choice([-1.0, -0.25, 0.0, 0.5, 1.0], size=80)
    limits = Preference(2).limits(folded(Preference(2), difference[None]), alpha)
    for sign, limit in zip((1, -1), limits, strict=True):
        x = sign * (difference - limit[0, 0]) / 2
        wealth = np.exp(np.outer(BETS, x) - np.outer(COSTS, x * x)).prod(axis=1).mean()
        assert wealth == pytest.approx(2.0 / alpha, rel=1e-3)


def test_a_pair_is_called_different_when_its_limits_leave_out_0_and_not_before() -> None:
    """Of three rankers each pair has a third of alpha."""
    test, vote = Preference(3), np.array([[1.0, 0.0, 0.5], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    state, seen = test.start(1), set()
    for _ in range(120):
        state = test.fold(state, np.zeros(3, np.int64), vote)
        low, high = test.limits(state, ALPHA)
        outside = (low > 0.0).astype(int) - (high < 0.0)
        assert (test.preferred(state, ALPHA) == outside).all()
        seen.add(tuple(outside[0].tolist()))
    assert {(0, 0, 0), (1, 1, -1)} <= seen


def equal_rankers(runs: int, votes: int, correlated: bool = False) -> Floats:
    """Votes of -1, 0 and 1 with mean 0; a lopsided kind: seldom 1, often -.25."""
    random = np.random.default_rng(4)
    if correlated:
        return np.where(random.random((runs, votes)) < 0.2, 1.0, -0.25)
    return random.choice([-1.0, 0.0, 1.0], p=[0.2, 0.6, 0.2], size=(runs, votes))


@pytest.mark.parametrize("lopsided", [False, True])
def test_equal_rankers_are_seldom_called_different_however_often_one_looks(lopsided: bool) -> None:
    """500 runs, a look after every 40 of 2000 votes: at most 5 % + 3 standard errors; the limits miss 0 as seldom."""
    test, runs = Preference(2), 500
    difference = equal_rankers(runs, 2000, lopsided)
    state, called, missed = test.start(runs), np.zeros(runs, np.bool_), np.zeros(runs, np.bool_)
    for part in np.split(difference, 50, axis=1):
        more = folded(test, part)
        state = Votes(*(old + new for old, new in zip(astuple(state), astuple(more), strict=True)))
        called |= (test.preferred(state, ALPHA) != 0)[:, 0]
        low, high = test.limits(state, ALPHA)
        missed |= ((low > 0.0) | (high < 0.0))[:, 0]
    assert called.mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert (called == missed).all()


def test_the_limits_hold_the_true_difference_and_close_in_on_it() -> None:
    """500 runs of 5000 votes with a mean of .1, after 100, 1000 and 5000; a miss in at most 5 % + 3 standard errors."""
    random, test, runs = np.random.default_rng(5), Preference(2), 500
    difference = random.choice([-1.0, 0.0, 1.0], p=[0.15, 0.6, 0.25], size=(runs, 5000))
    missed, widths = np.zeros(runs, np.bool_), []
    for votes in (100, 1000, 5000):
        low, high = test.limits(folded(test, difference[:, :votes]), ALPHA)
        missed |= ((low > 0.1) | (high < 0.1))[:, 0]
        widths.append(float((high - low).mean()))
        assert ((low >= -1.0) & (high <= 1.0) & (low < high)).all()
    assert missed.mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.08  # a normal interval that may be looked at once has .035


def test_a_better_ranker_is_found_on_either_side() -> None:
    random, test = np.random.default_rng(6), Preference(2)
    difference = random.choice([-1.0, 0.0, 1.0], p=[0.15, 0.6, 0.25], size=(1, 2000))
    for sign in (1, -1):
        state = folded(test, sign * difference)
        assert test.preferred(state, ALPHA)[0, 0] == sign
        low, high = test.limits(state, ALPHA)
        assert low[0, 0] > 0.0 if sign > 0 else high[0, 0] < 0.0
        assert low[0, 0] < test.means(state)[0, 0] < high[0, 0]


def test_before_the_first_vote_and_without_clicks_nothing_is_known() -> None:
    test = Preference(2)
    for state in (test.start(1), test.fold(test.start(1), np.zeros(50, np.int64), np.zeros((50, 2)))):
        assert test.preferred(state, ALPHA)[0, 0] == 0
        assert test.means(state)[0, 0] == 0.0
    assert test.limits(test.start(1), ALPHA) == (np.array([[-1.0]]), np.array([[1.0]]))


def test_of_three_rankers_each_pair_is_compared() -> None:
    test = Preference(3)
    assert test.pairs == ((0, 1), (0, 2), (1, 2))
    vote = np.tile([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0], 100).reshape(-1, 3)
    state = test.fold(test.start(1), np.zeros(len(vote), np.int64), vote)
    assert test.means(state)[0] == pytest.approx([1 / 3, 2 / 3, 1 / 3])
    assert test.preferred(state, ALPHA).tolist() == [[1, 1, 1]]
    low, high = test.limits(state, ALPHA)
    wider = Preference(2).limits(folded(Preference(2), (vote[:, 0] - vote[:, 1])[None]), ALPHA)
    assert low[0, 0] < wider[0][0, 0] < wider[1][0, 0] < high[0, 0]


@pytest.mark.parametrize("method", ["team_draft", "probabilistic", "optimized"])
def test_random_clicks_prove_nothing_even_where_wins_are_lopsided(method: str) -> None:
    """Optimized lists of abcd and bcda give the second three of four random clicks; its mean credit is the same."""
    random, votes = np.random.default_rng(7), []
    for _ in range(3000):
        placed = interleave([list("abcd"), list("bcda")], method, 4, draw=random.random)
        earned = credit(placed, placed.items[int(random.integers(4))])
        votes.append(Ballot((0, 0)).with_clicks(earned).vote())
    test = Preference(2)
    state = test.fold(test.start(1), np.zeros(len(votes), np.int64), np.array(votes))
    assert test.preferred(state, ALPHA)[0, 0] == 0
    wins = np.mean([second > first for first, second in votes])
    assert method != "optimized" or wins > 0.7
