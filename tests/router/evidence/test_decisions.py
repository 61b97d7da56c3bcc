"""A log becomes decisions with rewards by the learner's own rules, with and without ticks."""

from __future__ import annotations

import numpy as np
import pytest

from broker.messages import Record
from tests.router.evidence.logs import CLICKED, SPLIT, THOMPSON, endpoint, learner_log, recorded, split_log
from tests.router.learning.traces import START_US, TracedRequest, feedback, numbered, rows


def test_rewards_join_and_a_missing_one_is_the_default_when_its_horizon_is_over() -> None:
    liked = TracedRequest(number=1, arm="a", policy="split", propensity=0.5)
    other = TracedRequest(number=2, arm="b", policy="split", propensity=0.3)
    late = TracedRequest(number=3, arm="c", policy="split", propensity=0.2)
    log = numbered(
        [
            feedback(liked, START_US + 10),
            rows([liked, other, late, liked]),
            rows([other]),
            feedback(late, START_US + 60_000_000),
        ]
    )
    evidence = recorded(endpoint(SPLIT), log)
    assert list(evidence.decisions.rewards["clicked"]) == [1.0, 0.0, 0.0]
    assert evidence.decisions.weights == pytest.approx(np.array([[0.5, 0.3, 0.2]] * 3))
    assert (evidence.counts["duplicate"], evidence.counts["early"], evidence.counts["late"]) == (2, 1, 1)


def test_an_open_horizon_and_a_skipped_reward_are_no_number() -> None:
    skipping = {"rewards": {"clicked": {"default": "skip", "horizon": "5s"}}}
    log = numbered([rows([TracedRequest(number=1, arm="a", policy="split", propensity=0.5)])])
    assert np.isnan(recorded(endpoint(SPLIT, skipping), log).decisions.rewards["clicked"]).all()


def test_pinned_requests_and_those_of_other_policies_are_only_counted_by_arm() -> None:
    log = numbered(
        [
            rows(
                [
                    TracedRequest(number=1, arm="a", policy="pinned", propensity=0.0),
                    TracedRequest(number=2, arm="a", policy="split"),
                ]
            ),
        ]
    )
    evidence = recorded(endpoint(SPLIT), log)
    assert len(evidence.decisions) == 1
    assert not evidence.decisions.is_known.any()  # 1/3 is not the propensity of this split
    assert {key: arm.rows for key, arm in evidence.rows.arms.items()} == {("a", "pinned"): 1, ("a", "split"): 1}


def test_the_probabilities_of_a_learners_decisions_come_from_its_snapshots() -> None:
    declared = endpoint(THOMPSON)
    log, fold = learner_log(declared, 60, 1)
    evidence = recorded(declared, log, is_led=True)
    decisions = evidence.decisions
    assert decisions.is_known.all()
    drawn = decisions.weights[np.arange(len(decisions)), decisions.arm]
    assert drawn == pytest.approx(decisions.propensity, abs=1e-12)
    assert len({weights for _, weights in evidence.published}) > 5
    assert evidence.experiment.about(evidence.state) == fold.experiment.about(fold.state)


def test_garbage_is_skipped_and_counted_and_changes_nothing() -> None:
    log = split_log(200, 1)
    row, event = log[0], log[1]
    garbage = [
        Record(0, b"", {}),
        Record(0, b"\0\xff", {"cloudEvents_type": 7}),
        Record(0, b"junk", dict(row.headers)),
        Record(0, row.body[: len(row.body) // 2], dict(row.headers)),
        Record(0, b"[]", dict(event.headers)),
        Record(0, b'{"request_id": 1}', dict(event.headers)),
        Record(0, b"{", {"cloudEvents_type": "millrace.tick.v1"}),
        Record(0, b'{"v":1,"kind":"tick","number":99999999,"at_us":1}', {"cloudEvents_type": "millrace.tick.v1"}),
    ]
    mixed = numbered([record for place, one in enumerate(log) for record in (garbage[place % len(garbage)], one)])
    plain, hostile = recorded(endpoint(SPLIT), log), recorded(endpoint(SPLIT), mixed)
    assert hostile.counts["unreadable"] > 0
    assert np.array_equal(plain.decisions.rewards["clicked"], hostile.decisions.rewards["clicked"])
    assert np.array_equal(plain.decisions.arm, hostile.decisions.arm)


def test_a_time_behind_the_end_of_the_log_moves_no_clock() -> None:
    one = TracedRequest(number=1, arm="a", policy="split", propensity=0.5)
    liar = TracedRequest(number=2, arm="a", policy="split", propensity=0.5, accepted_us=START_US + 10**15)
    log = numbered([rows([one]), rows([liar]), feedback(one, START_US + 1_000_000)])
    assert recorded(endpoint(SPLIT, CLICKED), log).decisions.rewards["clicked"][0] == 1.0
