"""Exponential backoff."""

from __future__ import annotations

import random

from broker.support.backoff import Backoff


def test_waits_double_up_to_the_longest_and_start_again_after_a_reset() -> None:
    backoff = Backoff(first_s=0.2, longest_s=1.0)
    assert [backoff.next_s() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next_s() == 0.2


def test_jitter_shortens_a_wait_by_at_most_its_share() -> None:
    backoff = Backoff(first_s=1.0, longest_s=1.0, jitter=0.5, generator=random.Random(1))  # noqa: S311 - a test
    waits = [backoff.next_s() for _ in range(200)]
    assert all(0.5 <= wait_s <= 1.0 for wait_s in waits)
    assert max(waits) - min(waits) > 0.4


def test_many_tries_do_not_overflow() -> None:
    backoff = Backoff(first_s=0.1, longest_s=5.0)
    assert [backoff.next_s() for _ in range(5000)][-1] == 5.0
