"""A merge record is read back as it was written; any other bytes are not a merge, and raise nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Record
from broker.protocol.ids import new_uid
from broker.records.merges import HEADERS, Merge, read_merge, write_merge

MERGE = Merge(
    uid=new_uid(0),
    key="ann",
    policy="interleave",
    snapshot=2**64 - 1,
    mask=3,
    method="team_draft",
    rankers=("v1", "v2"),
    used=("v1", "v2"),
    items=("a", "b"),
    ranks=((1, 2), (0, 1)),
    credits=((1.0, 0.0), (0.0, 1.0)),
    accepted_us=11,
    at_us=12,
)
WRITTEN: dict[str, Any] = orjson.loads(write_merge(MERGE)[0])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def read(body: bytes) -> Merge | None:
    return read_merge(Record(0, body, HEADERS))


def test_a_merge_is_read_back_as_it_was_written() -> None:
    body, headers = write_merge(MERGE)
    assert read_merge(Record(7, body, headers)) == MERGE
    assert read_merge(Record(7, body, {"cloudEvents_type": "millrace.feedback.v1"})) is None
    assert read_merge(Record(7, body, {})) is None


def test_an_unknown_version_is_skipped_and_an_unknown_field_ignored() -> None:
    assert read(orjson.dumps({**WRITTEN, "v": 2})) is None
    assert read(orjson.dumps({**WRITTEN, "weather": "fine"})) == MERGE


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "x"},
        {"uid": 5},
        {"uid": "00"},
        {"items": ["a", "a"]},
        {"items": ["a"]},
        {"items": "ab"},
        {"ranks": [[1, 2]]},
        {"ranks": [[1], [2]]},
        {"ranks": [[1, -1], [0, 1]]},
        {"ranks": [[1, 1.5], [0, 1]]},
        {"credits": [[1.0, 0.0]]},
        {"credits": [[2.0, 0.0], [0.0, 1.0]]},
        {"credits": [[True, 0.0], [0.0, 1.0]]},
        {"used": []},
        {"used": ["v3"]},
        {"used": ["v1", "v1"]},
        {"rankers": ["v1", "v1"]},
        {"rankers": ["v1"]},
        {"mask": 2**64 - 1, "snapshot": -1},
        {"accepted_us": "11"},
        {"at_us": 2.5},
        {"key": None},
    ],
)
def test_inconsistent_fields_are_no_merge(change: dict[str, Any]) -> None:
    assert read(orjson.dumps({**WRITTEN, **change})) is None


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_every_field_is_required(name: str) -> None:
    assert read(orjson.dumps({key: value for key, value in WRITTEN.items() if key != name})) is None


def test_a_merge_without_one_of_its_rankers_is_read_back() -> None:
    alone = replace(MERGE, used=("v2",), credits=((0.0, 0.0), (0.0, 0.0)), ranks=((0, 1), (0, 2)))
    assert read(write_merge(alone)[0]) == alone


@given(st.binary(max_size=200))
def test_any_bytes_are_no_merge(body: bytes) -> None:
    assert read(body) is None


@given(st.dictionaries(st.sampled_from(sorted(WRITTEN)), JSON, min_size=1))
def test_any_values_are_read_as_they_are_or_not_at_all(change: dict[str, Any]) -> None:
    found = read(orjson.dumps({**WRITTEN, **change}))
    assert found is None or orjson.loads(write_merge(found)[0]).keys() == WRITTEN.keys()


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_broken_bytes_in_the_middle_raise_nothing(position: int, junk: bytes) -> None:
    body = write_merge(MERGE)[0]
    read(body[:position] + junk + body[position:])
    read(body[:position])
