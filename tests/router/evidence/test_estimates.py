"""Estimates of arms and other policies are right within their errors, and are refused without enough evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from router.evidence.decisions import Decisions
from router.evidence.estimates import always, log_mean, running_means, sample_ratio, values
from router.evidence.replay import replay
from router.evidence.report import report
from router.evidence.sections import Section, Table
from router.stats.arrays import Floats, Ints
from tests.router.evidence.logs import MEANS, SPLIT, THOMPSON, endpoint, learner_log, recorded, split_log


def table(sections: list[Section], key: str) -> Table:
    return next(one for one in sections if isinstance(one, Table) and one.key == key)


def drawn(arm: Ints, weights: Floats, reward: Floats, keys: Ints | None = None) -> Decisions:
    arms = np.asarray(arm, np.int64)
    rows = np.arange(len(arms))
    zero = np.zeros(len(arms), np.int64)
    return Decisions(arms, weights[rows, arms], weights, zero, zero, zero if keys is None else keys, {"r": reward})


@pytest.mark.parametrize("place", [0, 1, 2])
def test_always_one_arm_is_known_within_four_standard_errors_by_each_estimator(place: int) -> None:
    decisions = recorded(endpoint(SPLIT), split_log(6000, 2)).decisions
    truth = MEANS["abc"[place]]
    for found in values(decisions, decisions.rewards["clicked"], always(decisions, place)):
        assert found.value is not None, found
        assert found.low is not None
        assert abs(found.value - truth) < 4 * (found.value - found.low) / 1.96
        assert found.mean_weight == pytest.approx(1.0, abs=0.1)


def test_a_bandits_own_log_estimates_the_reward_of_each_arm() -> None:
    declared = endpoint(THOMPSON)
    log, _ = learner_log(declared, 700, 3)
    decisions = recorded(declared, log, is_led=True).decisions
    for place, truth in enumerate(MEANS.values()):
        _, found, _ = values(decisions, decisions.rewards["clicked"], always(decisions, place))
        if not found.refused:
            assert found.value is not None
            assert found.low is not None
            assert abs(found.value - truth) < 4 * (found.value - found.low) / 1.96


def test_means_are_not_pooled_over_times_with_other_weights() -> None:
    """Two equal arms: .2 by day, when the first has 90 %, and .1 at night, when both have half (Simpson)."""
    random = np.random.default_rng(4)
    day = np.repeat([True, False], 20_000)
    weights = np.where(day[:, None], [[0.9, 0.1]], [[0.5, 0.5]])
    arm = (random.random(40_000) > weights[:, 0]).astype(np.int64)
    reward = (random.random(40_000) < np.where(day, 0.2, 0.1)).astype(np.float64)
    decisions = drawn(arm, weights, reward)
    pooled = [reward[arm == place].mean() for place in (0, 1)]
    assert pooled == pytest.approx([0.164, 0.117], abs=0.01)
    found = [values(decisions, reward, always(decisions, place))[1].value for place in (0, 1)]
    assert found == pytest.approx([0.15, 0.15], abs=0.008)


def test_the_means_of_a_report_are_weighed_too() -> None:
    evidence = recorded(endpoint(SPLIT), split_log(3000, 5))
    rows = table(report(evidence), "reward clicked").rows
    for (_, _, _, mean), truth in zip(rows, MEANS.values(), strict=True):
        assert mean == pytest.approx(truth, abs=0.08)


def test_too_few_or_too_uneven_decisions_are_refused_with_the_reason() -> None:
    few = recorded(endpoint(SPLIT), split_log(60, 6)).decisions
    for found in values(few, few.rewards["clicked"], always(few, 1)):
        assert (found.value, found.low) == (None, None)
        assert "100 are needed" in found.refused
    none = few.only(few.arm == 9)
    assert "0 decisions can be used" in values(none, none.rewards["clicked"], always(none, 1))[0].refused
    weights = np.tile([0.5, 0.5], (2000, 1))
    skewed = drawn(np.zeros(2000, np.int64), weights, np.ones(2000))
    found = values(skewed, skewed.rewards["r"], always(skewed, 0))[0]
    assert "mean weight is 2" in found.refused


def test_decisions_at_which_an_arm_could_not_be_drawn_say_nothing_of_it() -> None:
    weights = np.repeat([[0.5, 0.5], [1.0, 0.0]], 300, axis=0)
    arm = np.r_[np.tile([0, 1], 150), np.zeros(300, np.int64)]
    decisions = drawn(arm, weights, np.ones(600))
    assert values(decisions, np.ones(600), always(decisions, 1))[0].used == 300
    assert values(decisions, np.ones(600), always(decisions, 0))[0].used == 600


def test_running_means_use_earlier_decisions_alone() -> None:
    found = running_means(np.array([0, 1, 0, 0]), np.array([1.0, 0.5, 0.0, 1.0]), 2)
    assert found.tolist() == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.5, 0.5]]


def test_the_sample_ratio_is_quiet_when_all_is_well_and_loud_when_it_is_not() -> None:
    well = recorded(endpoint(SPLIT), split_log(8000, 7)).decisions
    assert not sample_ratio(well).alarm
    wrong = sample_ratio(well.only((well.arm != 2) | (np.arange(len(well)) % 2 == 0)))
    assert wrong.alarm
    assert wrong.log_e > math.log(1000)


def test_keys_that_stick_are_counted_once() -> None:
    """40 keys with 100 decisions each are 40 draws, not 4000."""
    random = np.random.default_rng(8)
    arm_of = (random.random(40) < 0.35).astype(np.int64)
    key = np.repeat(np.arange(1, 41), 100)
    decisions = drawn(arm_of[key - 1], np.tile([0.5, 0.5], (4000, 1)), np.ones(4000), key)
    assert sample_ratio(decisions).alarm
    found = sample_ratio(decisions, sticky=True)
    assert (found.tested, found.alarm) == (40, False)


def test_feedback_that_is_missing_for_one_arm_is_an_alarm_of_its_own() -> None:
    skipping = {"rewards": {"clicked": {"default": "skip", "horizon": "5s"}}}
    declared = endpoint(SPLIT, skipping)
    log = split_log(4000, 9, reports=lambda arm, like: arm != "b" or like)  # b's zeros never come
    sections = report(recorded(declared, log))
    assert not table(sections, "sample ratio").alarm
    missing = table(sections, "sample ratio of clicked")
    assert missing.alarm
    assert "feedback is missing" in " ".join(missing.notes)


def test_a_reward_with_a_default_has_no_sample_ratio_test_of_missing_feedback() -> None:
    sections = report(recorded(endpoint(SPLIT), split_log(1000, 10)))
    assert "sample ratio of clicked" not in [one.key for one in sections]


def test_decisions_left_out_of_the_sample_ratio_are_counted() -> None:
    log = split_log(500, 11, weights=(0.2, 0.3, 0.5))  # as another split was declared then
    found = sample_ratio(recorded(endpoint(SPLIT), log).decisions)
    assert (found.tested > 0, found.tested + found.left_out) == (True, 500)  # b has 30 % in both


def test_another_split_is_worth_the_mean_of_its_arms() -> None:
    declared, other = endpoint(SPLIT), endpoint({"split": {"a": 10, "b": 80, "c": 10}})
    evidence = recorded(declared, split_log(6000, 12), candidate=other)
    truth = 0.1 * MEANS["a"] + 0.8 * MEANS["b"] + 0.1 * MEANS["c"]
    rows = table(replay(evidence, other), "value clicked").rows
    assert rows[0][2] == pytest.approx(log_mean(evidence.decisions.rewards["clicked"])[0])
    for row in rows[1:]:
        _, _, value, low, high, used, *_, remark = row
        assert isinstance(value, float)
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert abs(value - truth) < 4 * (high - low) / 3.92
        assert (used, remark) == (6000, "more than the log")


def test_a_bandit_that_is_replayed_learns_and_would_have_earned_more() -> None:
    declared, other = endpoint(SPLIT), endpoint(THOMPSON)
    evidence = recorded(declared, split_log(6000, 13), candidate=other)
    sections = replay(evidence, other)
    shares = {row[0]: row[2] for row in table(sections, "shares").rows}
    assert isinstance(shares["b"], float)
    assert shares["b"] > 0.8
    assert "more than the log" in [row[-1] for row in table(sections, "value clicked").rows]


def test_a_replayed_bandit_weighs_a_decision_by_earlier_records_alone() -> None:
    """The weights of the first half do not depend on the second half of the log."""
    declared, other = endpoint(SPLIT), endpoint(THOMPSON)
    log = split_log(2000, 14)
    whole = recorded(declared, log, candidate=other).decisions
    half = recorded(declared, log[: len(log) // 2], candidate=other).decisions
    assert np.array_equal(half.weights, whole.weights[: len(half)])
    assert len({tuple(weights) for weights in half.weights}) > 3
