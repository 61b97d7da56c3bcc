"""Tests that may be looked at after every event, and that count the same in any order."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import binom

from router.stats.arrays import Bools, Floats
from router.stats.eprocess import EventTest, PairTest, better_than, rarer_than, worse_than

RATIOS = (1.1, 1.5, 3.0, 8.0)


def events(number: int = 300) -> tuple[Bools, Floats]:
    random = np.random.default_rng(1)
    share = random.choice([0.01, 0.05, 0.25, 0.5], size=number)
    return random.random(number) < share, share


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("test", [worse_than(1.0), worse_than(1.3), better_than(1.5), EventTest(1.0, RATIOS)])
def test_the_expected_factor_is_one_if_the_hypothesis_holds(test: EventTest, share: float) -> None:
    ours = share * test.null / (1.0 + share * (test.null - 1.0))
    both = [test.fold(test.start(1), np.zeros(1, np.int64), np.array([x]), np.array([share])) for x in (True, False)]
    wealth = [math.exp(test.log_wealth(state)[0]) for state in both]
    assert ours * wealth[0] + (1.0 - ours) * wealth[1] == pytest.approx(1.0, abs=1e-8)
    assert ours * wealth[0] + (1.0 - ours) * wealth[1] <= 1.0 + 1e-12


def test_the_wealth_is_the_mean_of_the_likelihood_ratios() -> None:
    canary, share = events()
    test = EventTest(1.0, RATIOS)
    state = test.fold(test.start(1), np.zeros(len(share), np.int64), canary, share)
    exact = np.mean([np.prod(np.where(canary, r, 1.0) / (1.0 + share * (r - 1.0))) for r in RATIOS])
    assert test.log_wealth(state)[0] == pytest.approx(math.log(exact), abs=1e-6)


def test_a_rate_that_is_the_limit_is_proven_rarer_as_seldom_as_it_should() -> None:
    """The expected wealth after 200 requests is 1; of 2000 runs at most 5 % + 3 standard errors ever cross."""
    bad = np.arange(201)
    wealth = np.exp(rarer_than(0.02, bad, np.full(201, 200)))
    assert (binom.pmf(bad, 200, 0.02) * wealth).sum() == pytest.approx(1.0, abs=1e-9)
    seen = np.cumsum(np.random.default_rng(5).binomial(50, 0.02, (200, 2000)), axis=0)
    crossed = [rarer_than(0.02, row, np.full(2000, 50 * look)) >= math.log(20.0) for look, row in enumerate(seen, 1)]
    assert np.any(crossed, axis=0).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_any_order_any_batches_and_any_number_of_runs_give_the_same_bytes() -> None:
    canary, share = events()
    test, run = worse_than(1.0), np.random.default_rng(2).integers(5, size=len(share))
    whole = test.fold(test.start(5), run, canary, share)
    mixed = test.start(5)
    for places in np.array_split(np.random.default_rng(3).permutation(len(share)), 9):
        mixed = test.fold(mixed, run[places], canary[places], share[places])
    assert mixed.tobytes() == whole.tobytes()
    for each in range(5):
        own = run == each
        one = test.fold(test.start(1), np.zeros(int(own.sum()), np.int64), canary[own], share[own])
        assert one[0].tobytes() == whole[each].tobytes()
        assert test.log_wealth(one)[0] == test.log_wealth(whole)[each]


def test_an_event_under_a_share_of_0_or_1_changes_nothing() -> None:
    test = worse_than(1.0)
    state = test.fold(test.start(1), np.zeros(2, np.int64), np.array([True, False]), np.array([1.0, 0.0]))
    assert test.log_wealth(state)[0] == pytest.approx(0.0, abs=1e-12)


def test_a_canary_that_fails_five_times_as_often_is_found_after_a_few_events() -> None:
    test = worse_than(1.0)
    state = test.fold(test.start(1), np.zeros(6, np.int64), np.ones(6, np.bool_), np.full(6, 0.05))
    assert test.log_wealth(state)[0] > math.log(20.0)


def rewards(runs: int, number: int, drop: float) -> tuple[Bools, Floats]:
    random = np.random.default_rng(4)
    canary = random.random((number, runs)) < 0.3
    mean = 0.6 + 0.2 * np.sin(np.arange(number) / 300.0)[:, None] - drop * canary
    return canary, random.beta(5.0 * mean, 5.0 * (1.0 - mean))


@pytest.mark.parametrize("test", [PairTest(), PairTest(0.05)])
def test_pairs_of_one_run_are_the_same_as_among_many_bit_for_bit(test: PairTest) -> None:
    canary, reward = rewards(6, 200, 0.1)
    rows = np.arange(6)
    many = test.start(6)
    for each in range(200):
        many = test.fold(many, rows, canary[each], reward[each])
    at_once = test.fold(test.start(6), np.tile(rows, 200), canary.ravel(), reward.ravel())
    assert [part.tobytes() for part in astuple(at_once)] == [part.tobytes() for part in astuple(many)]
    for run in range(6):
        one = test.fold(test.start(1), np.zeros(200, np.int64), canary[:, run], reward[:, run])
        assert [part[0] for part in astuple(one)] == [part[run] for part in astuple(many)]


@pytest.mark.parametrize(("test", "drop"), [(PairTest(), 0.0), (PairTest(0.05), 0.05)])
def test_bets_on_rewards_come_up_by_chance_at_most_as_often_as_they_say(test: PairTest, drop: float) -> None:
    """400 runs at alpha 5 %, a look after every reward, a mean that drifts: at most 5 % + 3 standard errors = 8.3 %."""
    crossed = looked_at(test, drop)
    assert crossed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("test", "drop"), [(PairTest(), 0.1), (PairTest(0.1), 0.0)])
def test_bets_on_rewards_find_a_difference(test: PairTest, drop: float) -> None:
    assert looked_at(test, drop).mean() > 0.95


def test_the_bet_is_the_mean_of_earlier_pairs_over_their_second_moment() -> None:
    """As if a pair without a difference, and with a square of 1/4, had come before them; at most half."""
    for differences, bets in (
        ([0.02, 0.06, -1.0], [0.0, 0.02 / (0.25 + 0.0004), (0.02 + 0.06) / (0.25 + 0.0004 + 0.0036)]),
        ([1.0, 0.5, -0.75, 1.0], [0.0, 0.5, 0.5, 0.75 / (0.25 + 1.0 + 0.25 + 0.5625)]),
        ([-0.5, 1.0], [0.0, 0.0]),
    ):
        wealth = math.prod(1.0 + bet * value for bet, value in zip(bets, differences, strict=True))
        assert math.exp(wealth_of_pairs(PairTest(), differences)) == pytest.approx(wealth, rel=1e-12)


@pytest.mark.parametrize("number", [1, 3, 10])
def test_a_few_small_differences_are_no_reason_to_bet_much_on_the_next_one(number: int) -> None:
    """Who has bet half by then loses half of the wealth at once, and has to win it back."""
    assert wealth_of_pairs(PairTest(), [0.01] * number + [-1.0]) > math.log(0.6)


@pytest.mark.parametrize(
    ("means", "within"),
    [((0.6, 0.45), 450), ((0.6, 0.3), 110), ((0.9, 0.6), 85)],
    ids=["a quarter worse", "half as good", "a third worse"],
)
def test_a_true_difference_between_rewards_of_zero_and_one_is_found_soon(
    means: tuple[float, float], within: int
) -> None:
    """The median of 200 runs at alpha 5 %; it is about four fifths of the limit."""
    random, first = np.random.default_rng(7), np.full(200, 10_000)
    test = PairTest()
    state = test.start(200)
    for each in range(within + 1):
        canary = np.full(200, each % 2 == 1)
        reward = (random.random(200) < means[each % 2]).astype(np.float64)
        state = test.fold(state, np.arange(200), canary, reward)
        first[(test.log_wealth(state) >= math.log(20.0)) & (first > each)] = each + 1
    assert np.median(first) <= within


def wealth_of_pairs(test: PairTest, differences: list[float]) -> float:
    """Return the log wealth after pairs of one reward of each side."""
    number = len(differences)
    reward = [side for value in differences for side in (max(value, 0.0), max(-value, 0.0))]
    state = test.fold(
        test.start(1), np.zeros(2 * number, np.int64), np.tile([False, True], number), np.array(reward, np.float64)
    )
    return float(test.log_wealth(state)[0])


def looked_at(test: PairTest, drop: float) -> Bools:
    """Return for which of 400 runs the wealth was 20 at any time in 2000 rewards."""
    canary, reward = rewards(400, 2000, drop)
    state, crossed = test.start(400), np.zeros(400, np.bool_)
    for each in range(2000):
        state = test.fold(state, np.arange(400), canary[each], reward[each])
        crossed |= test.log_wealth(state) >= math.log(20.0)
    return crossed
