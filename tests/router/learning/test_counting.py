"""A key votes once, decisions from before the beginning do not count, and open joins are limited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from broker.protocol.header import Status
from broker.records.rewards import Reward
from broker.records.routing import LogPosition
from router.learning.bandit import BanditExperiment
from router.learning.canary import CanaryExperiment, GuardrailWatch, NestedBandit
from router.learning.contextual import ContextualExperiment
from router.learning.fold import ExperimentFold
from router.learning.interleaving import InterleavingExperiment, InterleavingState
from router.learning.joins import EVENTS_LIMIT
from router.policies.canary import BadEvents, Canary, RewardDrop
from router.policies.interleaving import Interleaving
from router.policies.linear import LinUcb
from router.policies.thompson import GaussianThompson, Thompson
from router.stats.arrays import ONE
from router.stats.eprocess import Pairs
from tests.router.learning.counting_logs import clicks, shown_list
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, spec_of, tick

RANKED = InterleavingExperiment(declared=Interleaving(arms=3, rankers=(0, 1), reward="clicked"))
THOMPSON = BanditExperiment(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked")
GAUSSIAN = BanditExperiment(learning=GaussianThompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked")
BEGAN = LogPosition(offset=0, number=10, at_us=START_US + 10_000_000)


def lists(*keys: str, accepted_us: int = START_US) -> list[TracedRequest]:
    return [TracedRequest(number=number, arm="a", key=key, accepted_us=accepted_us) for number, key in enumerate(keys)]


def voted(fold: ExperimentFold[InterleavingState]) -> tuple[int, int]:
    """Return how many have voted, and how many more for `a` than for `b`."""
    return int(fold.state.votes.units[0]), int(fold.state.votes.differences[0, 0]) // ONE


def test_a_key_votes_with_the_first_list_that_it_clicked_in_and_never_again() -> None:
    """Neither in the same second nor in a later one; those without a key vote as often as they click."""
    first, second = lists("k", "k", "k", "other", "", ""), replace(lists("k")[0], number=9)
    log = [*map(shown_list, first), *clicks(first[1:]), tick(20), shown_list(second), *clicks([second], "j"), tick(40)]
    fold = folded(RANKED, numbered(log))
    assert fold.progress.counts["rewards"] == 7
    assert voted(fold) == (4, 4)


def test_a_ranker_that_beats_only_some_rankers_has_not_won() -> None:
    """Two are as good as each other, and both are better than the third; then the first is better than both."""
    ranked = InterleavingExperiment(declared=Interleaving(arms=3, rankers=(0, 1, 2), reward="clicked"))
    state, run = ranked.start(), np.zeros(200, np.int64)
    for vote, pairs, phase in (([1.0, 1.0, 0.0], [0, 1, 1], "comparing"), ([1.0, 0.0, 0.0], [1, 1, 1], "decided")):
        state = replace(state, votes=ranked.preference.fold(state.votes, run, np.tile(vote, (200, 1))))
        assert ranked.preference.preferred(state.votes, ranked.declared.alpha)[0].tolist() == pairs
        state = ranked.tick(state)
        assert ranked.phase(state) == phase
    assert ranked.snapshot(state, 1).weights == (1.0, 0.0, 0.0)


def test_a_sticky_canary_counts_the_first_bad_event_of_a_key() -> None:
    """One user whose every request fails is one bad event for each guardrail; who has no key is one each time."""
    rails = (BadEvents(), BadEvents())
    canary = Canary(canary=2, stable=(1.0, 1.0, 0.0), steps=(0.5,), guardrails=rails, sticky=True)
    staged = CanaryExperiment(canary=canary, watches=(GuardrailWatch(), GuardrailWatch(over_us=1_000)))
    bad = [("k", Status.FAILED)] * 5 + [("", Status.FAILED)] * 2 + [("k", Status.OK)] * 3 + [("l", Status.OK)] * 3
    shown = [
        TracedRequest(number=number, arm="c", policy="canary", key=key, status=status, latency_us=9_000)
        for number, (key, status) in enumerate(bad)
    ]
    fold = folded(staged, numbered([rows(shown[:4]), tick(1), rows(shown[4:])]))
    assert [int(bad[0]) for bad in fold.state.canary.bad] == [3, 2]


def test_a_sticky_canary_counts_the_first_reward_of_a_key() -> None:
    canary = Canary(canary=2, stable=(1.0, 1.0, 0.0), guardrails=(RewardDrop(),), sticky=True)
    staged = CanaryExperiment(canary=canary, watches=(GuardrailWatch(reward="clicked"),))
    shown = [
        TracedRequest(number=number, arm=arm, policy="canary", key=f"{arm}{number % users}")
        for number, (arm, users) in enumerate([("a", 3), ("c", 5)] * 30)
    ]
    fold = folded(staged, numbered([rows(shown[:20]), rows(shown[20:]), tick(20)]))
    assert fold.progress.counts["rewards"] == 60
    (harm,) = fold.state.canary.harm
    assert isinstance(harm, Pairs)
    assert float(harm.pairs[0]) == 3.0


def test_each_reward_of_a_decision_counts_once_at_the_end_of_its_own_horizon() -> None:
    declared = {
        name: Reward.model_validate({"default": 0, "horizon": f"{s}s"}) for name, s in (("near", 5), ("far", 9))
    }
    canary = Canary(canary=2, stable=(1.0, 1.0, 0.0), guardrails=(RewardDrop(),))
    nested = NestedBandit(learning=Thompson(arms=2), joined=None, among=(0, 1), reward="near")
    staged = CanaryExperiment(canary=canary, watches=(GuardrailWatch(reward="far"),), nested=nested)
    log = numbered([rows([TracedRequest(number=1, arm="a", policy="canary")]), *map(tick, range(1, 20))])
    counted = [folded(staged, log[:end], spec_of(**declared)) for end in (5, 6, 9, 10, 20)]
    assert [fold.progress.counts["rewards"] for fold in counted] == [0, 1, 1, 2, 2]
    assert [fold.state.nested.pulls[0].tolist() for fold in counted] == [[0, 0], *[[ONE, 0]] * 4]


@pytest.mark.parametrize(("how", "expected"), [("first", 0), ("last", ONE)])
def test_of_several_true_labels_the_declared_one_counts_in_any_order(how: str, expected: int) -> None:
    right = Reward.model_validate({"from": "truth", "score": "argmax", "horizon": "20s", "duplicates": how})
    one = TracedRequest(number=1, arm="a", outputs={"p": np.array([0.1, 0.9], np.float32)})
    wrong, corrected = (feedback(one, START_US + at, values={}, truth=at) for at in (0, 1))
    for events in ([wrong, corrected], [corrected, wrong]):
        fold = folded(THOMPSON, numbered([rows([one]), *events, tick(20)]), spec_of(clicked=right))
        assert fold.state.rewards[0].tolist() == [expected, 0, 0]


def test_a_request_from_before_the_beginning_is_another_experiments() -> None:
    """Its row comes when this one has begun, and with a policy of the same name."""
    before, after = (
        TracedRequest(number=number, arm="a", accepted_us=BEGAN.at_us + late_us)
        for number, late_us in enumerate((-1, 0))
    )
    fold = ExperimentFold(spec_of(), THOMPSON)
    fold.begin(BEGAN)
    for record in numbered([rows([before, after]), feedback(before, START_US), tick(BEGAN.number + 20)]):
        fold.apply(replace(record, offset=record.offset + 1))
    assert (fold.progress.counts["decisions"], fold.state.pulls[0].tolist()) == (1, [ONE, 0, 0])


def test_a_list_from_before_the_beginning_is_another_experiments() -> None:
    (before,), (after,) = lists("", accepted_us=BEGAN.at_us - 1), lists("", accepted_us=BEGAN.at_us)
    after = replace(after, number=1)
    fold = ExperimentFold(spec_of(), RANKED)
    fold.begin(BEGAN)
    log = [shown_list(before), shown_list(after), *clicks([before, after]), tick(BEGAN.number + 20)]
    for record in numbered(log):
        fold.apply(replace(record, offset=record.offset + 1))
    assert fold.progress.counts["decisions"] == 1
    assert voted(fold) == (1, 1)


def test_early_feedback_to_a_request_that_is_never_credited_is_dropped_when_its_row_comes() -> None:
    one = TracedRequest(number=1, arm="a", policy="pinned", propensity=0.0)
    fold = folded(THOMPSON, numbered([feedback(one, START_US), rows([one])]))
    assert not fold.joins.by_uid
    for place, record in enumerate([feedback(one, START_US), *map(tick, range(1, 22))], 2):
        fold.apply(replace(record, offset=place))
    assert fold.progress.counts == {"early": 1, "late": 1}  # the second one, behind its row: nothing waited any more


def test_feedback_without_a_decision_waits_for_a_limited_number_of_requests() -> None:
    """Anybody can make some up. Those that are known are told still, and a decision that comes makes room."""
    shown = [TracedRequest(number=number, arm="a") for number in range(6)]
    events = [feedback(one, START_US, values={"clicked": 0.0}) for one in shown]
    again = feedback(shown[0], START_US, values={"clicked": 1.0})
    fold = ExperimentFold(spec_of(), THOMPSON, waiting_limit=3)
    for record in numbered([*events[:5], again]):
        fold.apply(record)
    assert (fold.progress.counts, len(fold.joins.by_uid)) == ({"early": 4, "unusable": 2}, 3)
    for place, record in enumerate([rows(shown[:1]), events[5], events[4]], 6):
        fold.apply(replace(record, offset=place))
    assert (fold.progress.counts["early"], fold.progress.counts["unusable"]) == (5, 3)
    for place, record in enumerate([tick(20), events[4]], 9):  # their decisions never came: there is room again
        fold.apply(replace(record, offset=place))
    assert (fold.progress.counts["early"], len(fold.joins.by_uid)) == (6, 1)


def test_a_sum_remembers_a_limited_number_of_events() -> None:
    reward = Reward.model_validate({"type": "real", "horizon": "20s", "default": 0, "duplicates": "sum"})
    one = TracedRequest(number=1, arm="a")
    ids = [str(event) for event in (*range(EVENTS_LIMIT + 2), 0)]
    events = [feedback(one, START_US, values={"clicked": 0.125}, event_id=event) for event in ids]
    fold = folded(GAUSSIAN, numbered([rows([one]), *events, tick(20)]), spec_of(clicked=reward))
    counts = fold.progress.counts
    assert (counts["joined"], counts["unusable"], counts["duplicate"]) == (EVENTS_LIMIT, 2, 1)
    assert fold.state.rewards[0, 0] == 0.125 * EVENTS_LIMIT * ONE


def test_a_click_outside_the_list_costs_no_vote() -> None:
    """Neither its own list, whose other click counts, nor the lists whose horizon is over at the same time."""
    shown = lists("", "", "")
    log = [*map(shown_list, shown), *clicks(shown[:2], "none of it"), *clicks(shown[1:], "j"), tick(20)]
    fold = folded(RANKED, numbered(log))
    assert voted(fold) == (2, -2)


def test_a_request_with_other_features_is_not_credited_and_costs_no_other_one_its_reward() -> None:
    """A declaration may change the features while earlier requests are still open."""
    bandit = ContextualExperiment(learning=LinUcb(arms=3, dimensions=2), arms=3, among=(0, 1, 2), reward="clicked")
    shown = [TracedRequest(number=number, arm="a", policy="linucb") for number in range(4)]
    fold = folded(bandit, numbered([rows(shown), *[feedback(one, START_US) for one in shown]]))
    for one, features in zip(shown, ([1.0, 5.0], [1.0], [1.0, 5.0, 9.0], None), strict=True):
        fold.joins.by_uid[one.uid].features = features
    fold.apply(replace(tick(20), offset=5))
    assert fold.state.rewarded[0].tolist() == [[1.0, 5.0], [0.0, 0.0], [0.0, 0.0]]


def test_requests_that_all_have_other_features_teach_nothing() -> None:
    bandit = ContextualExperiment(learning=LinUcb(arms=3, dimensions=2), arms=3, among=(0, 1, 2), reward="clicked")
    one = TracedRequest(number=1, arm="a", policy="linucb")
    fold = folded(bandit, numbered([rows([one]), feedback(one, START_US)]))
    fold.joins.by_uid[one.uid].features = [3.0]  # it would be stretched over both
    fold.apply(replace(tick(20), offset=2))
    assert not fold.state.rewarded.any()
