"""Delays: all arms wait equally long, the logged propensity counts, and the batching of rows changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from router.learning.fold_document import canonical
from router.stats.arrays import ONE
from tests.router.learning.fold_logs import EXP3, EXPERIMENTS, THOMPSON
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, tick


def test_an_arm_whose_feedback_comes_faster_looks_no_better_before_the_horizon_is_over() -> None:
    """P7. Half of both arms' requests are liked; of `a` one hears at once, of `b` after 15 of 20 seconds."""
    shown = [TracedRequest(number=number, arm="ab"[number % 2]) for number in range(80)]
    liked = [one for one in shown if one.number // 2 % 2]
    fast, slow = ([feedback(one, START_US) for one in liked if one.arm == arm] for arm in "ab")
    log = [rows(shown), *fast, *map(tick, range(1, 16)), *slow, *map(tick, range(16, 21))]
    for end in range(1, len(log) + 1):
        fold = folded(THOMPSON, numbered(log[:end]))
        assert fold.state.pulls[0, 0] == fold.state.pulls[0, 1]
        assert fold.state.rewards[0, 0] == fold.state.rewards[0, 1]
        assert fold.snapshot.weights[0] == pytest.approx(fold.snapshot.weights[1])
    assert fold.state.rewards[0].tolist() == [20 * ONE, 20 * ONE, 0]


def test_a_late_reward_counts_with_the_propensity_that_its_own_decision_has_logged() -> None:
    """P8. Snapshots changed between decision and reward; estimated mean losses are true to 4 standard errors, 6e-5."""
    random = np.random.default_rng(1)
    means, weights = np.array([0.5, 0.6, 0.2]), np.array([[0.8, 0.1, 0.1], [0.1, 0.3, 0.6]])
    number, every = 6000, 300
    log, terms = [], np.zeros((3, number))
    for begin in range(0, number, every):
        group, events = [], []
        for place in range(begin, begin + every):
            pmf = weights[begin // every % 2]
            arm = int(random.choice(3, p=pmf))
            one = TracedRequest(number=place, arm="abc"[arm], policy="exp3", propensity=float(pmf[arm]), snapshot=begin)
            reward = random.random() < means[arm]
            terms[arm, place] = (1.0 - reward) / pmf[arm]
            group.append(one)
            events += [feedback(one, START_US)] if reward else []
        log += [rows(group), tick(begin // every + 1, START_US), *events]
    log += [tick(second, START_US) for second in range(number // every + 1, 60)]
    fold = folded(EXP3, numbered(log))
    losses = fold.state.losses[0] / ONE
    assert np.abs(losses - terms.sum(axis=-1)).max() < number / ONE
    assert (np.abs(losses / number - (1.0 - means)) < 4 * terms.std(axis=-1) / number**0.5).all()


@pytest.mark.parametrize("name", ["thompson", "exp3", "canary"])
def test_rows_may_be_gathered_into_events_in_any_way(name: str) -> None:
    """P9. One row an event, all rows of a second in one, and anything between."""
    experiment, random = EXPERIMENTS[name], np.random.default_rng(2)
    policy = "canary" if name == "canary" else experiment.policy
    shown = [
        TracedRequest(
            number=number, arm="abc"[random.integers(3)], policy=policy, key=f"k{random.integers(40)}", propensity=1 / 3
        )
        for number in range(300)
    ]
    liked = [bool(random.integers(2)) for _ in shown]
    known = []
    for size in (1, 2, 7, 60):
        log = []
        for second in range(60):
            now = shown[second * 5 : second * 5 + 5]
            log += [rows(now[at : at + size]) for at in range(0, len(now), size)]
            log += [feedback(one, START_US) for one in now if liked[one.number]]
            log.append(tick(second + 1, START_US))
        log += [tick(second, START_US) for second in range(61, 90)]
        known.append(canonical(folded(experiment, numbered(log))))
    assert len(set(known)) == 1
