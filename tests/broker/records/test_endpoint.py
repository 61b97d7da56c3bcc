"""The pauses before a failed request is repeated."""

from __future__ import annotations

import pytest

from broker.records.endpoint import Retry


@pytest.mark.parametrize(("attempts", "longest_s"), [(1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 30.0), (99, 30.0)])
def test_a_pause_doubles_within_its_range_and_is_drawn_from_its_upper_half(attempts: int, longest_s: float) -> None:
    retry = Retry(backoff="200ms..30s")
    assert retry.pause_s(attempts, lambda: 0.0) == pytest.approx(longest_s)
    assert retry.pause_s(attempts, lambda: 1.0) == pytest.approx(longest_s / 2)
    drawn = {retry.pause_s(attempts) for _ in range(20)}
    assert len(drawn) > 1
    assert all(longest_s / 2 <= pause_s <= longest_s for pause_s in drawn)


def test_a_single_duration_is_the_pause_after_every_attempt() -> None:
    assert {Retry(backoff="1s").pause_s(attempts, lambda: 0.0) for attempts in (1, 2, 50)} == {1.0}
