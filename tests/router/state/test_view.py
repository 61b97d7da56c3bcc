"""A view follows snapshots and results of the current experiment alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from broker.messages import Record
from broker.protocol.ids import wall_us
from broker.records.declared import endpoint_declared, endpoint_withdrawn
from broker.records.endpoint import read_endpoint
from broker.records.routing import (
    ExperimentResult,
    LearnerCheckpoint,
    LogPosition,
    SnapshotRecord,
    experiment_of,
    write_claim,
    write_experiment_result,
    write_snapshot,
)
from broker.records.status import SILENT_AFTER_S, Announcement, State, host_name, write_announcement
from router.state.view import View

BANDIT = {
    "endpoint": "e",
    "arms": {"a": "m@1", "b": "m@2"},
    "policy": {"bandit": "thompson", "reward": "r"},
    "feedback": {"rewards": {"r": {"default": 0}}},
}
CANARY = {"endpoint": "e", "arms": {"a": "m@1", "b": "m@2"}, "policy": {"canary": "b", "stable": "a"}}
ENDED, OTHER = (1.0, 0.0), (0.25, 0.75)
PLACE = LogPosition(offset=0, number=0, at_us=0)


class Logs:
    """A view with an endpoint and a claim in its logs, so that snapshots count."""

    def __init__(self, declaration: Mapping[str, Any] = CANARY) -> None:
        self.view = View(b"key")
        self.declaration = read_endpoint(dict(declaration), source="test")
        self.experiment = experiment_of(self.declaration)
        self.view.fold_declared(Record(0, endpoint_declared(self.declaration, "test"), {}))
        self.view.fold_declared(Record(1, write_claim("learner"), {}))

    @property
    def weights(self) -> tuple[float, ...]:
        return self.view.router("e").snapshot.weights

    def say(self, number: int, weights: tuple[float, ...] = OTHER) -> None:
        status = SnapshotRecord(endpoint="e", experiment=self.experiment, term=1, number=number, weights=weights)
        self.view.fold_status(Record(0, write_snapshot(status), {}))

    def end(self, number: int) -> None:
        verdict = ExperimentResult(
            endpoint="e", experiment=self.experiment, number=number, phase="aborted", weights=ENDED
        )
        self.view.fold_declared(Record(2, write_experiment_result(verdict), {}))

    def check(self, number: int = 5, experiment: str = "", weights: tuple[float, ...] = OTHER) -> None:
        checkpoint = LearnerCheckpoint(
            experiment=experiment or self.experiment, at=PLACE, rebuild=PLACE, number=number, weights=weights, state={}
        )
        self.view.fold_checkpoint("e", checkpoint)


@pytest.mark.parametrize("is_made", [True, False], ids=["router known", "router made later"])
def test_a_result_takes_the_place_of_the_snapshot_that_it_ends(is_made: bool) -> None:
    """It has the number of the newest snapshot, and the weights of the end: whichever of them is read first."""
    for order in ("said first", "verdict first"):
        logs = Logs()
        if is_made:
            assert logs.weights != ENDED
        if order == "said first":
            logs.say(9)
        logs.end(9)
        logs.say(9)
        assert logs.weights == ENDED, order


def test_a_result_of_an_experiment_that_ended_before_its_first_snapshot_is_followed() -> None:
    """Nothing was ever said: a router starts with number 0, and so does the learner."""
    logs = Logs()
    assert logs.weights != ENDED
    logs.end(0)
    assert logs.weights == ENDED
    logs.say(0)
    assert logs.weights == ENDED


def test_snapshots_after_a_result_are_followed_and_earlier_ones_are_not() -> None:
    """People may still set weights by hand."""
    logs = Logs()
    assert logs.weights != ENDED
    logs.end(9)
    logs.say(8)
    assert logs.weights == ENDED
    logs.say(10)
    assert logs.weights == OTHER


def test_a_result_that_is_older_than_the_snapshot_changes_nothing() -> None:
    logs = Logs()
    assert logs.weights != OTHER
    logs.say(10)
    logs.end(9)
    assert logs.weights == OTHER


def test_the_weights_of_the_newest_checkpoint_are_used_while_there_is_no_snapshot() -> None:
    logs = Logs(BANDIT)
    logs.check(5)
    assert (logs.weights, logs.view.router("e").snapshot.number) == (OTHER, 5)
    logs.say(4, (0.5, 0.5))  # it is known better by who learns
    logs.check(6)
    assert logs.weights == (0.5, 0.5)


def test_a_checkpoint_of_another_experiment_or_for_other_arms_is_not_taken() -> None:
    """The endpoint was declared with another experiment: earlier snapshots do not count."""
    logs = Logs(BANDIT)
    before = logs.view.router("e").snapshot
    logs.check(experiment="before")
    logs.check(weights=(0.25, 0.25, 0.5))
    assert logs.view.router("e").snapshot == before


def test_a_checkpoint_of_an_endpoint_that_is_gone_is_not_taken() -> None:
    logs = Logs(BANDIT)
    logs.view.fold_declared(Record(2, endpoint_withdrawn("e", "test"), {}))
    logs.check(5)
    assert logs.view.endpoints() == []


def test_a_number_that_no_learner_can_have_reached_holds_a_snapshot_for_a_moment_only() -> None:
    """Somebody who may write to `status` could fix all traffic on one arm until the next claim."""
    logs = Logs()
    logs.say(10)
    logs.say(2**62 - 1, ENDED)
    assert logs.weights == ENDED
    for number in (11, 12):
        logs.say(number)
    assert logs.weights == ENDED
    logs.say(13)
    assert logs.weights == OTHER
    logs.say(12, ENDED)  # one that is late is alone
    assert logs.weights == OTHER


class Models:
    """A view of replicas of a model that no endpoint claims."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.view = View(b"key", lambda: self.now_s)

    def say(self, version: int, state: State) -> None:
        status = Announcement(instance=f"r{version}", part="replica", state=state, at_us=0, model="m", version=version)
        self.view.fold_status(Record(0, write_announcement(status), {}))

    def arms(self) -> list[str]:
        return list(self.view.resolve("m")[0].endpoint.arms)

    def drawn(self, pin: str | None = None) -> int:
        router, mask = self.view.resolve("m")
        return router.plan(b"u" * 16, mask, pin=pin).legs[0].version


def test_every_version_that_is_loaded_is_reachable_by_number_and_the_newest_gets_the_traffic() -> None:
    models = Models()
    for version in (1, 10, 2):
        models.say(version, "ready")
    assert models.arms() == ["v1", "v2", "v10"]
    assert models.drawn() == 10
    assert [models.drawn(pin) for pin in ("1", "2", "10", "v2")] == [1, 2, 10, 2]


def test_a_version_that_is_gone_is_listed_no_more_and_one_that_loads_is() -> None:
    models = Models()
    models.say(1, "ready")
    assert models.arms() == ["v1"]
    models.say(2, "loading")
    models.now_s += 1.0
    assert (models.arms(), models.drawn()) == (["v1", "v2"], 1)
    models.say(2, "ready")
    models.now_s += 1.0
    assert (models.arms(), models.drawn()) == (["v1", "v2"], 2)
    models.say(1, "stopped")
    models.now_s += 1.0
    assert models.arms() == ["v2"]


def test_a_model_of_more_versions_than_an_endpoint_can_have_arms_keeps_its_newest() -> None:
    models = Models()
    for version in range(1, 101):
        models.say(version, "ready")
    assert len(models.arms()) == 64
    assert models.drawn() == 100


def test_an_old_announcement_makes_no_replica_ready_though_it_is_read_only_now() -> None:
    """A gateway, and `millrace models`, read the last minutes of the log when they start."""
    models = Models()
    for version, age_s in ((1, 2 * SILENT_AFTER_S), (2, 0.0)):
        status = Announcement(
            instance=f"r{version}",
            part="replica",
            state="ready",
            at_us=wall_us() - int(age_s * 1e6),
            model="m",
            version=version,
            host=host_name(),
        )
        models.view.fold_status(Record(0, write_announcement(status), {}))
    assert [models.view.versions.is_ready("m", version) for version in (1, 2)] == [False, True]
    assert [status.instance for status, _ in models.view.processes.live()] == ["r2"]
