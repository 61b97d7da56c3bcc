"""A record of the `declared` log is checked as strictly as a file, because any client of the broker can write there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.errors import Misconfigured
from broker.messages import NO_HEADERS, Record
from broker.records.declared import VERSION, endpoint_declared, read_declared
from broker.records.endpoint import read_endpoint
from broker.support.strict import duration, seconds

INVALID_TARGETS = [
    {"model": "m", "version": 99999999999},
    {"model": "m", "version": 1_000_000_000},
    {"model": "m", "version": 0},
    {"model": "m", "version": -3},
    {"model": "m", "version": True},
    {"model": "m", "version": "1"},
    {"model": "../x y", "version": 1},
    {"model": "", "version": 1},
]


def record(body: bytes) -> Record:
    return Record(0, body, NO_HEADERS)


def record_of(name: Any, declaration: Any) -> Record:
    data = {"endpoint": name, "declaration": declaration, "digest": "", "author": "somebody"}
    return record(orjson.dumps({"v": VERSION, "kind": "endpoint", "at_us": 0, **data}))


@pytest.mark.parametrize("target", INVALID_TARGETS)
def test_an_invalid_model_version_is_refused_in_files_and_records(target: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match=r"arms\.v1\.(model|version)"):
        read_endpoint({"endpoint": "e", "arms": {"v1": target}}, source="test")
    assert read_declared(record_of("e", {"endpoint": "e", "arms": {"v1": target}})) is None


def test_the_highest_version_of_a_folder_can_be_declared() -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": {"v1": "m@999999999"}}, source="test")
    declared = read_declared(record(endpoint_declared(endpoint, "test")))
    assert declared is not None
    assert declared.declaration == endpoint


def test_more_arms_than_a_mask_has_bits_are_refused() -> None:
    arms = {f"v{number}": f"m@{number}" for number in range(1, 66)}
    with pytest.raises(Misconfigured, match="65 are declared, an endpoint has at most 64"):
        read_endpoint({"endpoint": "e", "arms": arms, "policy": {"split": list(arms)}}, source="test")


@pytest.mark.parametrize("name", ["other", "../x", "", 7, {"a": 1}, None])
def test_a_record_under_another_name_than_its_declaration_is_skipped(name: Any) -> None:
    assert read_declared(record_of(name, {"endpoint": "e", "arms": {"v1": "m@1"}})) is None


@given(st.floats(min_value=0.0, max_value=1e18))
@example(seconds("50us"))
@example(seconds("49us"))
@example(1e17)
def test_a_duration_is_read_back_as_it_was_written(value_s: float) -> None:
    assert seconds(duration(value_s)) == value_s


@pytest.mark.parametrize("deadline", ["1us", "50us", "250ms", "30s", "7d"])
def test_a_valid_deadline_is_read_back_from_the_log(deadline: str) -> None:
    endpoint = read_endpoint({"endpoint": "e", "arms": {"v1": "m@1"}, "deadline": deadline}, source="test")
    declared = read_declared(record(endpoint_declared(endpoint, "test")))
    assert declared is not None
    assert declared.declaration == endpoint


@pytest.mark.parametrize("deadline", ["0s", "0.4us", "8d", "9999999999999d", "9" * 400 + "d"])
def test_a_deadline_out_of_range_is_refused(deadline: str) -> None:
    with pytest.raises(Misconfigured, match=r"deadline: .* seconds are not a valid deadline: write one from 1us to 7d"):
        read_endpoint({"endpoint": "e", "arms": {"v1": "m@1"}, "deadline": deadline}, source="test")
