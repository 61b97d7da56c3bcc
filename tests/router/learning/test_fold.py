"""The fold is a function of the log: cut, repeated, shuffled or resumed, it has the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from broker.messages import Record
from broker.protocol.header import Status
from broker.records.rewards import Reward
from broker.records.routing import OperatorCommand, read_checkpoint, write_checkpoint, write_operator_command
from router.learning.bandit import BanditExperiment
from router.learning.canary import CanaryExperiment, GuardrailWatch
from router.learning.fold import ExperimentFold
from router.learning.fold_document import canonical, checkpoint_of, resume
from router.policies.canary import Canary, CanaryPhase
from router.policies.thompson import Thompson
from router.stats.arrays import ONE
from tests.router.learning.fold_logs import EXPERIMENTS, STAGED, THOMPSON, log_of
from tests.router.learning.traces import (
    START_US,
    TracedRequest,
    feedback,
    folded,
    numbered,
    rows,
    spec_of,
    tick,
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_statistics_survive_being_written_after_every_record(name: str) -> None:
    """A ledger and a checkpoint hold the whole state: 25 cuts, each resumed by a new fold."""
    experiment, records = EXPERIMENTS[name], log_of(name)
    whole = folded(experiment, records)
    assert whole.progress.counts["rewards"] > 100
    random = np.random.default_rng(2)
    for cut in random.integers(1, len(records), 25):
        first = folded(experiment, records[:cut])
        checkpoint = checkpoint_of(first)
        body, headers = write_checkpoint(checkpoint)
        read = read_checkpoint(Record(0, body, headers))
        assert read is not None
        second: ExperimentFold[Any] = ExperimentFold(spec_of(), experiment)
        resume(second, read)
        for record in records[read.rebuild.offset :]:
            second.apply(record)
        assert canonical(second) == canonical(whole), cut


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_records_that_come_twice_change_nothing(name: str) -> None:
    experiment, records = EXPERIMENTS[name], log_of(name)
    random = np.random.default_rng(3)
    twice = []
    for record in records:
        twice.append(record)
        if random.random() < 0.5:
            twice.append(record)
    found = folded(experiment, numbered(twice))
    assert canonical(found) == canonical(folded(experiment, records))
    assert found.progress.counts["duplicate"] > 50


@pytest.mark.parametrize("name", ["thompson", "exp3"])
def test_the_order_within_the_horizon_changes_no_counting_policy(name: str) -> None:
    """Rows and feedback between two ticks, in any order; and feedback moved as far as its horizon lets it."""
    experiment, records = EXPERIMENTS[name], log_of(name)
    random = np.random.default_rng(4)
    shuffled: list[Record] = []
    between: list[Record] = []
    for record in records:
        if record.headers["cloudEvents_type"] == "millrace.tick.v1":
            random.shuffle(between)
            shuffled += [*between, record]
            between = []
        else:
            between.append(record)
    shuffled += between
    assert shuffled != records
    assert canonical(folded(experiment, numbered(shuffled))) == canonical(folded(experiment, records))


def test_a_reward_is_credited_once_its_horizon_is_over_and_not_before() -> None:
    one, other = TracedRequest(number=1, arm="a"), TracedRequest(number=2, arm="b")
    fold = folded(THOMPSON, numbered([rows([one, other]), feedback(one, START_US)]))
    for number in range(1, 20):
        fold.apply(replace(tick(number), offset=number + 1))
        assert not fold.state.pulls.any()
    fold.apply(replace(tick(20), offset=21))
    assert fold.state.pulls[0].tolist() == [ONE, ONE, 0]
    assert fold.state.rewards[0].tolist() == [ONE, 0, 0]  # missing feedback counts as the declared default
    assert not fold.joins.by_uid


def test_feedback_after_the_horizon_is_late() -> None:
    one = TracedRequest(number=1, arm="a")
    fold = folded(THOMPSON, numbered([rows([one]), *map(tick, range(1, 22)), feedback(one, START_US)]))
    assert fold.progress.counts["late"] == 1
    assert fold.state.rewards[0].tolist() == [0, 0, 0]


def test_feedback_may_come_before_its_decision() -> None:
    one = TracedRequest(number=1, arm="a")
    fold = folded(THOMPSON, numbered([feedback(one, START_US), tick(1), rows([one]), *map(tick, range(2, 22))]))
    assert (fold.progress.counts["early"], fold.state.rewards[0].tolist()) == (1, [ONE, 0, 0])


def test_feedback_without_a_decision_is_dropped() -> None:
    fold = folded(THOMPSON, numbered([feedback(TracedRequest(number=1, arm="a"), START_US), *map(tick, range(1, 22))]))
    assert (fold.progress.counts["late"], len(fold.joins.by_uid)) == (1, 0)


def test_a_row_older_than_the_dedupe_window_does_not_count() -> None:
    newer = TracedRequest(number=2, arm="b", accepted_us=START_US + 60_000_000)
    fold = folded(THOMPSON, numbered([rows([newer]), tick(60), rows([TracedRequest(number=1, arm="a")])]))
    assert (fold.progress.counts["late"], fold.progress.counts["decisions"]) == (1, 1)


@pytest.mark.parametrize(
    "shown",
    [
        TracedRequest(number=1, arm="a", policy="pinned", propensity=0.0),
        TracedRequest(number=1, arm="a", policy="holdout", propensity=1.0),
        TracedRequest(number=1, arm="a", status=Status.INVALID),
        TracedRequest(number=1, arm="a", status=Status.CANCELLED),
    ],
)
def test_requests_that_were_not_drawn_or_failed_by_the_client_are_never_credited(shown: TracedRequest) -> None:
    fold = folded(THOMPSON, numbered([rows([shown]), feedback(shown, START_US), *map(tick, range(1, 30))]))
    assert not fold.state.pulls.any()


def test_a_failed_request_counts_with_the_default_reward() -> None:
    fold = folded(THOMPSON, numbered([rows([TracedRequest(number=1, arm="a", status=Status.FAILED)]), tick(20)]))
    assert (fold.state.pulls[0, 0], fold.state.rewards[0, 0]) == (ONE, 0)


@pytest.mark.parametrize(("how", "expected"), [("first", 0.0), ("last", 0.25), ("max", 0.75)])
def test_several_values_become_one_in_any_order(how: str, expected: float) -> None:
    reward = Reward.model_validate({"type": "unit", "horizon": "20s", "default": 0, "duplicates": how})
    one = TracedRequest(number=1, arm="a")
    events = [feedback(one, START_US + at, values={"clicked": value}) for at, value in ((1, 0.0), (2, 0.75), (3, 0.25))]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        records = numbered([rows([one]), *[events[place] for place in order], tick(20)])
        fold = folded(THOMPSON, records, spec_of(clicked=reward))
        assert fold.state.rewards[0, 0] == expected * ONE


def test_a_sum_counts_each_event_once() -> None:
    reward = Reward.model_validate({"type": "real", "horizon": "20s", "default": 0, "duplicates": "sum"})
    one = TracedRequest(number=1, arm="a")
    events = [feedback(one, START_US, values={"clicked": 0.25}, event_id=name) for name in ("x", "y", "x")]
    unnamed = feedback(one, START_US, values={"clicked": 9.0})
    fold = folded(THOMPSON, numbered([rows([one]), *events, unnamed, tick(20)]), spec_of(clicked=reward))
    assert fold.state.rewards[0, 0] == 0.5 * ONE
    assert (fold.progress.counts["duplicate"], fold.progress.counts["unusable"]) == (1, 1)


def test_a_true_label_is_scored_by_the_answer() -> None:
    right = Reward.model_validate({"from": "truth", "score": "argmax", "horizon": "20s"})
    shown = [
        TracedRequest(number=n, arm="ab"[n % 2], outputs={"p": np.eye(10, dtype=np.float32)[n % 10]}) for n in range(20)
    ]
    events = [feedback(one, START_US, values={}, truth=one.number if one.arm == "a" else 9) for one in shown]
    bandit = BanditExperiment(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="right")
    fold = folded(bandit, numbered([*events[:5], rows(shown), *events[5:], tick(20)]), spec_of(right=right))
    assert (fold.state.pulls[0] // ONE).tolist() == [10, 10, 0]
    assert (fold.state.rewards[0] // ONE).tolist() == [5, 2, 0]  # a: 0, 2, 4, 6, 8 of 0..18; b: 9 and 19


def test_labels_that_fit_no_answer_and_values_of_another_type_are_unusable() -> None:
    one = TracedRequest(number=1, arm="a")
    events = [
        feedback(one, START_US, values={"clicked": 0.5}),
        feedback(one, START_US, values={"other": 1.0}),
        feedback(one, START_US, values={}, truth=3),
    ]
    fold = folded(THOMPSON, numbered([rows([one]), *events, tick(20)]))
    assert (fold.progress.counts["unusable"], fold.state.rewards[0, 0]) == (3, 0)


def test_a_canary_that_fails_is_aborted_and_gets_nothing_any_more() -> None:
    canary = CanaryExperiment(canary=Canary(canary=2, stable=(1.0, 1.0, 0.0)), watches=(GuardrailWatch(),))
    shown = [
        TracedRequest(
            number=n,
            arm="c" if n % 20 == 0 else "a",
            policy="canary",
            propensity=0.01,
            status=Status.FAILED if n % 20 == 0 else Status.OK,
        )
        for n in range(400)
    ]
    fold = folded(canary, numbered([rows(shown), tick(1)]), spec_of(clicked=Reward.model_validate({"default": 0})))
    assert canary.phase(fold.state) == "aborted"
    assert fold.snapshot.weights == (0.5, 0.5, 0.0)
    assert fold.snapshot.number == 1


def test_commands_are_folded_like_everything_else() -> None:
    def order(word: Any, **weights: float) -> Record:
        body, headers = write_operator_command(
            OperatorCommand(word=word, author="me", at_us=START_US, weights=weights, experiment="x")
        )
        return Record(0, body, headers)

    fold = folded(STAGED, numbered([order("set", a=1, b=3), tick(1)]))
    assert fold.snapshot.weights == (0.25, 0.75, 0.0)
    for place, record in enumerate([order("resume"), tick(2), order("promote"), tick(3), order("abort"), tick(4)], 2):
        fold.apply(replace(record, offset=place))
    assert [snapshot.number for snapshot, _ in fold.published.entries] == [0, 1, 2, 3, 4]
    assert fold.state.canary.phase[0] == CanaryPhase.ABORTED
    assert fold.published.entries[-2][0].weights[2] == pytest.approx(
        1 / 3, abs=1e-3
    )  # joined: one of three that know nothing


@pytest.mark.parametrize("number", [0, -5, 10**15, 2**62])
def test_a_tick_that_is_invalid_does_not_move_the_clock(number: int) -> None:
    fold = folded(THOMPSON, numbered([tick(1), tick(number, START_US)]))
    assert fold.progress.tick == 1


def test_ticks_of_two_leaders_are_one_clock() -> None:
    fold = folded(THOMPSON, numbered([tick(1), tick(1), tick(2), tick(2), tick(3)]))
    assert fold.progress.tick == 3


def test_a_leader_whose_time_is_behind_does_not_move_it_back() -> None:
    """Otherwise a uid that was forgotten would be new again and count twice."""
    before, now = (TracedRequest(number=s, arm="a", accepted_us=START_US + s * 1_000_000) for s in (60, 100))
    ahead, behind = tick(32, now.accepted_us), tick(33, before.accepted_us)
    fold = folded(THOMPSON, numbered([rows([before]), tick(20, before.accepted_us), rows([now]), ahead]))
    assert before.uid not in fold.joins.seen
    for place, record in enumerate([behind, rows([before]), tick(60, now.accepted_us)], 4):
        fold.apply(replace(record, offset=place))
    assert (fold.progress.counts["decisions"], fold.progress.counts["late"], fold.state.pulls[0, 0]) == (2, 1, 2 * ONE)


def test_experiments_fit_their_protocol() -> None:
    for experiment in EXPERIMENTS.values():
        assert experiment.phase(experiment.start())
        assert not experiment.is_over(experiment.start())
