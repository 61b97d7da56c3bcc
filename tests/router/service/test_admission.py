"""How much a router puts into a model's queue."""

from __future__ import annotations

import pytest

from router.service.admission import AHEAD_S, FRESH_S, LEAST, QueueAdmission


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def served(clock: Clock, rate: float, seconds: float) -> tuple[QueueAdmission, float]:
    """Offer all there is room for to a queue that drains `rate` a second; returns its depth at the end."""
    admission, depth, step_s = QueueAdmission(clock), 0.0, 0.05
    for _ in range(round(seconds / step_s)):
        if admission.is_stale:
            admission.measure(round(depth))
        room = max(0, admission.room)
        admission.begin(room)
        admission.succeed(room)
        depth = max(0.0, depth + room - rate * step_s)
        clock.now += step_s
    return admission, depth


@pytest.mark.parametrize("rate", [300.0, 5_000.0, 60_000.0])
def test_about_two_seconds_of_its_drain_wait_in_a_queue(rate: float) -> None:
    _, depth = served(Clock(), rate, 60.0)
    assert depth == pytest.approx(AHEAD_S * rate, rel=0.25)


def test_a_slow_model_gets_the_least_number_of_requests() -> None:
    _, depth = served(Clock(), 10.0, 60.0)
    assert depth <= LEAST


def test_it_is_looked_at_when_there_is_no_room_or_it_is_time() -> None:
    clock = Clock()
    admission = QueueAdmission(clock)
    seen = [admission.is_stale]
    admission.measure(0)
    seen.append(admission.is_stale)
    admission.begin(LEAST)
    seen.append(admission.is_stale)
    admission.measure(10)
    clock.now += 2 * FRESH_S
    seen.append(admission.is_stale)
    assert seen == [True, False, True, True]


def test_a_queue_that_others_fill_has_no_room() -> None:
    clock = Clock()
    admission = QueueAdmission(clock)
    admission.measure(0)
    clock.now += 1.0
    admission.measure(100_000)
    assert admission.room < 0


def test_unpublished_requests_are_not_counted_as_processed() -> None:
    clock = Clock()
    admission = QueueAdmission(clock)
    admission.measure(0)
    for _ in range(40):  # nothing gets into a queue that is not there
        admission.begin(LEAST)
        admission.fail(LEAST)
        clock.now += 1.0
        admission.measure(0)
    assert admission.room == LEAST


def test_requests_being_published_take_room() -> None:
    admission = QueueAdmission(Clock())
    admission.measure(0)
    admission.begin(200)
    assert admission.room == LEAST - 200
