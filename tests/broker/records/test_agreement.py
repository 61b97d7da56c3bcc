"""The settings that gateways and routers compare: a hash that does not reveal the key, and strict reading."""

from __future__ import annotations

from typing import Any

import pytest

from broker.records.agreement import FIELD, Agreement, key_hash, read_agreement, write_agreement

OWN = Agreement(key="ab", is_key_given=False, started_us=7, limit_requests=1, limit_bytes=2)


def test_the_same_key_has_the_same_hash_and_another_key_or_prefix_another_one() -> None:
    hashes = {key_hash(key, prefix) for key in (b"a", b"b") for prefix in ("one.", "two.") for _ in range(2)}
    assert len(hashes) == 4
    assert not any("secret" in one for one in (key_hash(b"secret", "one."), str(write_agreement(OWN))))


def test_an_agreement_is_read_as_it_was_written() -> None:
    assert read_agreement(write_agreement(OWN)) == OWN


def test_fields_of_another_version_are_ignored() -> None:
    assert read_agreement({FIELD: {**write_agreement(OWN)[FIELD], "more": 1}}) == OWN


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        [],
        {},
        {"key": "ab"},
        {**write_agreement(OWN)[FIELD], "started_us": "x"},
        {**write_agreement(OWN)[FIELD], "is_key_given": 1},
        {**write_agreement(OWN)[FIELD], "key": None},
    ],
)
def test_malformed_data_is_no_agreement(data: Any) -> None:
    assert read_agreement({FIELD: data}) is None
