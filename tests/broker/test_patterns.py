"""A schema says of texts with a number what their readers say."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from broker.patterns import number_within
from broker.strict import Duration, Fraction, Share, Within

BOUNDS = ["0", "0.5", "0.0416667", "1", "7", "10", "99.5", "100", "1000", "604800", "0.000001"]
NUMBERS = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,8})?", fullmatch=True)


@given(st.sampled_from(BOUNDS), st.sampled_from(BOUNDS), NUMBERS, st.booleans())
def test_a_pattern_matches_the_numbers_within_its_bounds_and_no_others(
    one: str, other: str, number: str, is_bound: bool
) -> None:
    least, most = sorted((Decimal(one), Decimal(other)))
    text = f"{least:f}" if is_bound else number
    found = re.fullmatch(number_within(least, most), text)
    assert (found is not None) == (least <= Decimal(text) <= most)


@given(st.sampled_from(["0", "1", "7", "10"]), NUMBERS)
@example("0", "0.0")
@example("0", "0.01")
@example("7", "7.00")
@example("10", "10")
@example("10", "100")
def test_a_bound_may_be_left_out_itself(bound: str, number: str) -> None:
    least, most = Decimal(bound), Decimal(100)
    assert bool(re.fullmatch(number_within(least, most, above=True, below=True), number)) == (
        least < Decimal(number) < most
    )


def agrees(kind: Any, bounds: Within | Share, text: str) -> None:
    """Compare what a reader says of a text with what the schema of the same bounds says."""
    adapter = TypeAdapter[float](Annotated[kind, bounds])
    schema = adapter.json_schema()
    schema = next((one for one in schema.get("anyOf", ()) if one["type"] == "string"), schema)
    try:
        adapter.validate_python(text)
    except ValidationError:
        read = False
    else:
        read = True
    assert bool(re.search(schema["pattern"], text)) == read, text


@pytest.mark.parametrize(
    "bounds", [Within("1s", "30d", "x"), Within("1us", "7d", "x"), Within("1ms", "10m", "x"), Within("1s", "1h", "x")]
)
@given(st.sampled_from(["", "0", "1", "2", "59", "60", "61", "999", "1000"]) | NUMBERS)
def test_a_duration_is_read_where_the_schema_allows_it(bounds: Within, number: str) -> None:
    for unit in ("us", "ms", "s", "m", "h", "d", "w", ""):
        agrees(Duration, bounds, f"{number}{unit}")


@pytest.mark.parametrize("bounds", [Share(), Share(above=True), Share(above=True, below=True), Share(most=0.5)])
@given(
    st.sampled_from(["", "0", "00.0", "0.1", "49.9", "50", "50.1", "99.9", "100", "100.00", "0100", "101"]) | NUMBERS
)
def test_a_share_is_read_where_the_schema_allows_it(bounds: Share, number: str) -> None:
    for text in (f"{number}%", f" {number} % ", f"{number}"):
        agrees(Fraction, bounds, text)
