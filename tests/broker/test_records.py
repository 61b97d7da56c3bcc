"""No bytes on a log end a process that reads them, and every record that is read can be used.

Each kind of record is written by its own function; then one value in it is replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import MillraceError
from broker.messages import Record
from broker.records.declared import endpoint_declared, read_declared
from broker.records.endpoint import Endpoint, read_endpoint
from broker.records.feedback import Feedback, read_feedback, write_feedback
from broker.records.merges import Merge, read_merge, write_merge
from broker.records.routing import (
    ExperimentResult,
    LearnerCheckpoint,
    LogPosition,
    OperatorCommand,
    SnapshotRecord,
    Tick,
    experiment_of,
    read_checkpoint,
    read_claim,
    read_experiment_result,
    read_operator_command,
    read_snapshot,
    read_tick,
    write_checkpoint,
    write_claim,
    write_experiment_result,
    write_operator_command,
    write_snapshot,
    write_tick,
)
from broker.records.skipped import SKIPPED
from broker.records.status import Announcement, Cancel, read_cancels, read_status, write_announcement, write_cancels
from monitors.known import KnownVersions
from processors.cancels import CancelledRequests
from router.learning.leadership import Leadership
from router.state.view import View

UID = bytes(range(16))
POSITION = LogPosition(offset=1, number=1, at_us=1)


def endpoint() -> Endpoint:
    return read_endpoint(
        {
            "endpoint": "e",
            "arms": {"a": "m@1", "b": "m@2"},
            "policy": {"bandit": "thompson", "reward": "r"},
            "feedback": {"rewards": {"r": {"default": 0}}},
        },
        source="test",
    )


EXPERIMENT = experiment_of(endpoint())
FULL = {"max_batch_size": 8, "metadata": {"name": "m", "inputs": []}, "config": {}, "problems": {"m": "broken"}}
ANNOUNCEMENT = Announcement(
    instance="replica-1",
    part="replica",
    state="ready",
    at_us=1,
    host="here",
    pid=7,
    metrics_port=80,
    model="m",
    version=1,
    in_flight=3,
    troubles=("one",),
    full=FULL,
)
MERGE = Merge(
    uid=UID,
    key="k",
    policy="interleave",
    snapshot=1,
    mask=3,
    method="team_draft",
    rankers=("a", "b"),
    used=("a", "b"),
    items=("x", "y"),
    ranks=((1, 2), (2, 1)),
    credits=((1.0, 0.0), (0.0, 1.0)),
    accepted_us=1,
    at_us=2,
)

Written = tuple[bytes, dict[str, Any]]
RECORDS: dict[str, Written] = {
    "endpoint": (endpoint_declared(endpoint(), "test"), {}),
    "claim": (write_claim("learner"), {}),
    "verdict": (
        write_experiment_result(
            ExperimentResult(endpoint="e", experiment=EXPERIMENT, number=1, phase="won", weights=(1.0, 0.0))
        ),
        {},
    ),
    "announcement": (write_announcement(ANNOUNCEMENT), {}),
    "cancel": (write_cancels([Cancel(UID, 1)]), {}),
    "snapshot": (
        write_snapshot(
            SnapshotRecord(endpoint="e", experiment=EXPERIMENT, term=0, number=1, weights=(0.5, 0.5), about={"n": 1})
        ),
        {},
    ),
    "tick": write_tick(Tick(number=1, at_us=1)),
    "order": write_operator_command(
        OperatorCommand(word="set", author="me", at_us=1, experiment=EXPERIMENT, weights={"a": 1.0})
    ),
    "checkpoint": write_checkpoint(
        LearnerCheckpoint(experiment=EXPERIMENT, at=POSITION, rebuild=POSITION, number=1, weights=(0.5, 0.5), state={})
    ),
    "feedback": write_feedback(Feedback(uid=UID, values={"r": 1.0}, at_us=1)),
    "merge": write_merge(MERGE),
}
READERS: tuple[Callable[[Record], object], ...] = (
    read_declared,
    read_claim,
    read_experiment_result,
    read_status,
    read_cancels,
    read_snapshot,
    read_tick,
    read_operator_command,
    read_checkpoint,
    read_feedback,
    read_merge,
)
JUNK: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.just([])
    | st.just({})
    | st.just(["x", 7])
    | st.just({"a": {"b": 1}})
)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a document."""
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    for key, part in inner:
        yield (*before, key)
        yield from paths(part, (*before, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a document with one value replaced."""
    whole = copy.deepcopy(document)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


@st.composite
def broken(draw: st.DrawFn) -> Record:
    """Return a record in which one value is junk."""
    body, headers = RECORDS[draw(st.sampled_from(sorted(RECORDS)))]
    document = orjson.loads(body)
    path = draw(st.sampled_from([path for path in paths(document) if path not in (("v",), ("kind",))]))
    return Record(3, orjson.dumps(with_value(document, path, draw(JUNK))), headers)


def work(record: Record) -> None:
    """Read a record as all processes do, and then handle a request."""
    for read in READERS:
        read(record)
    view, known, cancels = View(b"key"), KnownVersions(), CancelledRequests()
    view.fold_declared(Record(0, RECORDS["endpoint"][0], {}))
    view.fold_declared(Record(1, RECORDS["claim"][0], {}))
    view.fold_status(Record(2, RECORDS["announcement"][0], {}))
    for fold in (view.fold_declared, view.fold_status, known.fold_declared, known.fold_status, cancels.fold):
        fold(record)
    for name in [*view.endpoints(), "e", "m"]:
        try:
            router, mask = view.resolve(name)
            view.versions.check_servable(router.endpoint, mask)
            plan = router.plan(UID, mask, key="k")
        except MillraceError:
            continue
        assert view.versions.max_batch(plan.legs[0].model, plan.legs[0].version) > 0
    orjson.dumps(known.targets())


@settings(max_examples=500)
@given(broken())
def test_a_record_with_a_wrong_value_ends_no_process(record: Record) -> None:
    work(record)


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.sampled_from([b"", b"7", b"null", b"[]", b'{"v": 1}', b'{"v": 1, "kind": []}']))
def test_bytes_that_are_not_a_record_end_no_process(body: bytes) -> None:
    for headers in ({}, *[headers for _, headers in RECORDS.values() if headers]):
        work(Record(3, body, headers))


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_every_kind_is_read_as_it_was_written(kind: str) -> None:
    body, headers = RECORDS[kind]
    assert sum(bool(read(Record(3, body, headers))) for read in READERS) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "x"},
        {"version": -1},
        {"full": {"max_batch_size": "x"}},
        {"full": {"metadata": 7}},
        {"full": {"max_batch_size": -5}},
        {"in_flight": 2**63 - 1},
        {"state": "splendid"},
        {"model": "../x"},
        {"at_us": -1},
        {"metrics_port": 70_000},
        {"instance": ""},
        {"troubles": "none"},
    ],
)
def test_a_wrong_announcement_is_skipped_and_counted(wrong: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    before = SKIPPED.counts["announcement"]
    body = orjson.dumps({**orjson.loads(RECORDS["announcement"][0]), **wrong})
    view = View(b"key")
    view.fold_status(Record(9, body, {}))
    assert view.versions.by_model == {}
    assert SKIPPED.counts["announcement"] == before + 1


def test_an_announcement_of_an_older_release_is_read() -> None:
    body = {"v": 1, "kind": "announcement", "instance": "g", "part": "gateway", "state": "ready", "at_us": 5}
    announcement = read_status(Record(0, orjson.dumps(body), {}))
    assert announcement is not None
    assert (announcement.host, announcement.troubles, announcement.full) == ("", (), {})


def test_leadership_that_changes_often_is_a_trouble() -> None:
    class Silent:
        """A broker that is never called."""

    lead = Leadership(Silent(), "me")  # type: ignore[arg-type]
    for offset in range(4):
        lead.fold_declared(Record(offset, write_claim(f"learner-{offset}"), {}))
    assert lead.trouble == ""
    lead.fold_declared(Record(4, write_claim("learner-4"), {}))
    assert "changed hands 5 times within 60 s" in lead.trouble
