"""Hostile values and foreign records affect only their own request, and other experiments teach nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from broker.messages import Record
from broker.protocol.header import Status
from broker.records.rewards import Reward
from broker.records.routing import (
    ExperimentResult,
    SnapshotRecord,
    read_claim,
    read_experiment_result,
    read_operator_command,
    read_snapshot,
    write_experiment_result,
    write_snapshot,
)
from router.learning.bandit import BanditExperiment
from router.learning.canary import CanaryExperiment, GuardrailWatch
from router.learning.contextual import ContextualExperiment
from router.learning.fold_document import canonical
from router.learning.joins import score, write_join
from router.learning.rows import features_of
from router.policies.canary import Canary, CanaryPhase, RewardDrop
from router.policies.linear import LinUcb
from router.policies.thompson import GaussianThompson, Thompson
from router.state.view import View
from router.stats.arrays import ONE
from router.stats.packing import packed, unpacked
from tests.router.learning.odd_records import CANARY, RANKED, click, merged, order
from tests.router.learning.traces import START_US, TracedRequest, feedback, folded, numbered, rows, spec_of, tick

GAUSSIAN = BanditExperiment(learning=GaussianThompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked")
THOMPSON = BanditExperiment(learning=Thompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked")


@pytest.mark.parametrize("value", [1e14, -1e14, 1.7e308])
def test_a_value_that_no_state_can_hold_is_unusable(value: float) -> None:
    one = TracedRequest(number=1, arm="a")
    for how in ("sum", "first"):
        reward = Reward.model_validate({"type": "real", "horizon": "20s", "default": 5, "duplicates": how})
        events = feedback(one, START_US, values={"clicked": value}, event_id="x")
        fold = folded(GAUSSIAN, numbered([rows([one]), events, tick(20)]), spec_of(clicked=reward))
        assert (fold.progress.counts["unusable"], fold.state.rewards[0, 0]) == (1, 5 * ONE)


@pytest.mark.parametrize("label", [1e299, -1e13, [1e299]])
def test_a_label_that_no_reward_can_follow_from_is_unusable_whenever_it_comes(label: Any) -> None:
    error = Reward.model_validate({"from": "truth", "score": "error", "horizon": "20s", "default": 5})
    bandit = BanditExperiment(learning=GaussianThompson(arms=3), arms=3, among=(0, 1, 2), reward="clicked")
    one = TracedRequest(number=1, arm="a", outputs={"p": np.array([3.0], np.float32)})
    wild, good = (feedback(one, START_US + at, values={}, truth=truth) for at, truth in ((0, label), (1, 4.0)))
    for records in ([rows([one]), wild, good], [wild, rows([one]), good], [good, wild, rows([one])]):
        fold = folded(bandit, numbered([*records, tick(20)]), spec_of(clicked=error))
        assert (fold.progress.counts["unusable"], fold.state.rewards[0, 0]) == (1, -1 * ONE)


def test_a_score_beyond_the_limit_of_a_reward_is_none() -> None:
    assert score("error", [1e13], 0.5) is None
    assert score("error", [9e11], -9e11) is None
    assert score("error", [9e11, 1.0], [-9e11, 1.0]) == -9e11
    assert score("error", [1e12], 0.0) == -1e12


def test_a_sum_of_many_values_stays_within_the_writable_range() -> None:
    reward = Reward.model_validate({"type": "real", "horizon": "20s", "default": 0, "duplicates": "sum"})
    one = TracedRequest(number=1, arm="a")
    events = [feedback(one, START_US, values={"clicked": 9e11}, event_id=str(event)) for event in range(50)]
    fold = folded(GAUSSIAN, numbered([rows([one]), *events]), spec_of(clicked=reward))
    assert fold.progress.counts["unusable"] == 49
    assert canonical(fold)


def test_a_huge_reward_does_not_become_a_linear_model() -> None:
    bandit = ContextualExperiment(learning=LinUcb(arms=3, dimensions=2), arms=3, among=(0, 1, 2), reward="clicked")
    reward = Reward.model_validate({"type": "real", "horizon": "20s", "default": 0})
    one = TracedRequest(number=1, arm="a", policy="linucb")
    fold = folded(bandit, numbered([rows([one])]), spec_of(clicked=reward))
    fold.joins.by_uid[one.uid].features = [1.0, 5.0]
    for place, record in enumerate([feedback(one, START_US, values={"clicked": 1e12}), tick(20)], 1):
        fold.apply(replace(record, offset=place))
    assert fold.state.rewarded.max() == 5 * 256.0
    assert np.isfinite(fold.state.root).all()


def test_models_that_are_no_numbers_are_refused() -> None:
    learning = LinUcb(arms=2, dimensions=2)
    written = packed(learning.start(1))
    written["rewarded"][0][0][0] = None
    with pytest.raises(ValueError, match="finite"):
        unpacked(written, learning.start(1))


def test_one_record_that_breaks_costs_its_neighbours_nothing() -> None:
    shown = [TracedRequest(number=number, arm="a") for number in range(50)]
    fold = folded(THOMPSON, numbered([rows(shown)]))
    fold.joins.by_uid[shown[7].uid].values = {"clicked": [START_US, "x"]}
    with pytest.raises(ValueError, match="could not convert"):
        fold.apply(replace(tick(20), offset=1))
    assert not fold.joins.by_uid
    body, headers = feedback(shown[0], START_US).body.replace(b"1.0", b'"x"'), feedback(shown[0], START_US).headers
    fold.apply(Record(2, body, headers))
    assert fold.progress.counts["unusable"] == fold.progress.counts["late"] == 0


def test_uids_are_forgotten_when_only_requests_come_that_wait_for_nothing() -> None:
    """A canary that has ended needs ticks only to forget uids."""
    fold = folded(CANARY, numbered([order("abort"), tick(1)]))
    offset = 2
    for number in range(200):
        shown = TracedRequest(number=number, arm="a", policy="canary", accepted_us=START_US + number * 1_000_000)
        fold.apply(replace(rows([shown]), offset=offset))
        assert (fold.forgets_at_us is None) == (number == 0)  # the newest is kept until another comes
        fold.apply(replace(tick(number + 2), offset=offset + 1))
        offset += 2
    assert len(fold.joins.seen) < 60


def test_a_command_to_another_experiment_has_no_effect() -> None:
    fold = folded(CANARY, numbered([order("promote", experiment="another"), tick(1)]))
    assert fold.state.canary.phase[0] == CanaryPhase.RUNNING


def test_no_operator_keeps_an_arm_that_has_shown_harm() -> None:
    shown = [
        TracedRequest(
            number=n,
            arm="c" if n % 4 == 0 else "a",
            policy="canary",
            propensity=0.01,
            status=Status.FAILED if n % 4 == 0 else Status.OK,
        )
        for n in range(400)
    ]
    for held in (order("set", a=1, c=1), order("pause")):
        fold = folded(CANARY, numbered([held, rows(shown), tick(1)]))
        assert CANARY.phase(fold.state) == "aborted"
        assert fold.snapshot.weights == (0.5, 0.5, 0.0)
        for place, record in enumerate([order("set", c=1), tick(2)], 3):  # who insists may
            fold.apply(replace(record, offset=place))
        assert fold.snapshot.weights == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("rankers", "votes"), [(("a", "b"), 1), (("b", "a"), 0), (("y", "z"), 0), (("a", "b", "c"), 0), (("a",), 0)]
)
def test_only_lists_of_this_experiments_rankers_count(rankers: tuple[str, ...], votes: int) -> None:
    fold = folded(RANKED, numbered([merged(1, rankers), click(1), tick(20)]))
    assert int(fold.state.votes.units[0]) == votes
    assert not fold.joins.by_uid


@pytest.mark.parametrize(
    "body",
    [
        b'{"v":1,"kind":"verdict","endpoint":{},"experiment":"x","number":1,"phase":"aborted","weights":[1]}',
        b'{"v":1,"kind":"snapshot","endpoint":[],"experiment":"x","term":1,"number":1,"weights":[1]}',
        b'{"v":1,"kind":"snapshot","endpoint":"e","experiment":"x","term":1,"number":-4,"weights":[1]}',
        b'{"v":1,"kind":"claim","instance":{},"at_us":1}',
        b'{"v":1,"kind":"claim","instance":"i","at_us":9223372036854775808}',
        b'{"v":1,"kind":"order","word":[],"author":"a","at_us":1,"experiment":"x","weights":{}}',
    ],
)
def test_garbage_is_skipped(body: bytes) -> None:
    record = Record(0, body, {"cloudEvents_type": "millrace.order.v1"})
    assert [read(record) for read in (read_experiment_result, read_snapshot, read_claim, read_operator_command)] == [
        None
    ] * 4
    view = View(b"key")
    view.fold_declared(record)
    view.fold_status(record)


def test_the_result_of_an_older_experiment_does_not_count_for_this_one() -> None:
    from broker.records.declared import endpoint_declared
    from broker.records.endpoint import read_endpoint

    view = View(b"key")
    declaration = read_endpoint(
        {
            "endpoint": "e",
            "arms": {"a": "m@1", "b": "m@2"},
            "policy": {"bandit": "thompson", "reward": "r"},
            "feedback": {"rewards": {"r": {"default": 0}}},
        },
        source="test",
    )
    view.fold_declared(Record(0, endpoint_declared(declaration, "test"), {}))
    old = ExperimentResult(endpoint="e", experiment="before", number=9, phase="aborted", weights=(1.0, 0.0))
    view.fold_declared(Record(1, write_experiment_result(old), {}))
    assert [name for name, _ in view.without_snapshot()] == ["e"]
    foreign = SnapshotRecord(endpoint="e", experiment="before", term=-1, number=9, weights=(1.0, 0.0))
    view.fold_status(Record(0, write_snapshot(replace(foreign, term=0)), {}))
    assert view.snapshot_of("e") is None
    assert view.router("e").snapshot.weights == (0.5, 0.5)


def test_a_value_that_cannot_be_taken_takes_nothing_from_the_one_beside_it() -> None:
    """The ledger writes the keys that were counted, and no others."""
    more = {"spent": Reward.model_validate({"type": "real", "default": 0, "horizon": "20s", "duplicates": "sum"})}
    both = replace(spec_of(), rewards={**spec_of().rewards, **more})
    one = TracedRequest(number=1, arm="a", policy="canary")
    staged = CanaryExperiment(
        canary=Canary(canary=2, stable=(1.0, 1.0, 0.0), guardrails=(RewardDrop(), RewardDrop())),
        watches=(GuardrailWatch(reward="clicked"), GuardrailWatch(reward="spent")),
    )
    fold = folded(staged, numbered([rows([one])]), both)
    fold.joins.changed.joins.clear()
    fold.apply(replace(feedback(one, START_US, values={"spent": 1.0}), offset=1))
    assert not fold.joins.changed.joins
    assert write_join(fold.joins.by_uid[one.uid])[9] is None
    fold.apply(replace(feedback(one, START_US, values={"clicked": 1.0, "spent": 1.0}), offset=2))
    assert fold.joins.changed.joins == {one.uid}
    assert fold.progress.counts == {"decisions": 1, "unusable": 1, "joined": 1}


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("[1, 2.5]", [1.0, 2.5]),
        ("[1, 1e7]", None),
        ("[1, 1e300]", None),
        ('["nan"]', None),
        ('["x"]', None),
        ("7", None),
        ('"12"', None),
        ('{"1": 2}', None),
        ('["1_0"]', None),
        ("[true]", None),
        ("[1e6, -1e6]", [1e6, -1e6]),
        ("[-1e7]", None),
        ("", None),
        ("[[1]]", None),
        ("null", None),
    ],
)
def test_features_that_no_router_would_take_are_none(context: str, expected: list[float] | None) -> None:
    assert features_of(context) == expected
