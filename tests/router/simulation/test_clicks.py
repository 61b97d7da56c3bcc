"""Simulated users click only in their lists, and merged lists need fewer users than A/B tests."""

from __future__ import annotations

import numpy as np
import pytest

from router.simulation.clicks import ClickWorld, by_position, cascade, needed, sessions, shown


def liked(number: int = 4000) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.random.default_rng(1).random((number, 6)) < 0.3


def test_a_cascade_ends_with_its_first_click() -> None:
    likes = liked()
    clicks = cascade(likes, np.random.default_rng(2), stays=0.8)
    assert (clicks.sum(axis=1) <= 1).all()
    assert (likes | ~clicks).all()
    first = likes.argmax(axis=1)
    assert (clicks.argmax(axis=1) == first)[clicks.any(axis=1)].all()
    reached = [clicks[likes.any(axis=1) & (first == position)].any(axis=1).mean() for position in range(6)]
    assert reached == pytest.approx([0.8**position for position in range(6)], abs=0.08)


def test_users_by_position_look_at_each_by_itself() -> None:
    likes = liked(20_000)
    clicks = by_position(likes, np.random.default_rng(3))
    shares = [clicks[likes[:, position], position].mean() for position in range(6)]
    assert shares == pytest.approx([1 / (position + 1) for position in range(6)], abs=0.03)


def test_a_ranker_with_less_noise_is_the_better_one_and_a_world_can_be_drawn_again() -> None:
    world = ClickWorld(noise=(0.05, 0.5))
    drawn, again = (sessions(world, 2000, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(drawn.rankings, again.rankings)
    found = [np.take_along_axis(drawn.liked, order[:, :3], axis=1).mean() for order in drawn.rankings]
    assert found[0] > found[1] + 0.05


def test_the_number_of_sessions_is_the_textbook_s() -> None:
    """.50 beside .55: 2 x (.25 + .2475) x 7.849 / .05**2 in all; a mean vote of .05: (1 - .05**2) x 7.849 / .05**2."""
    control, better = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [45, 55])
    found = needed(control, better, np.repeat([-1.0, 1.0], [19, 21]))
    assert (found.halves, found.interleaved, found.lift) == pytest.approx((2 * 1562, 3132, 0.1), rel=1e-3)


@pytest.mark.parametrize("method", ["team_draft", "probabilistic"])
def test_one_list_needs_fewer_users_than_two_halves(method: str) -> None:
    """Few sessions and a great difference; the gate on a small one is in tests.science."""
    world, random = ClickWorld(noise=(0.05, 0.4)), np.random.default_rng(5)
    drawn = sessions(world, 4000, random)
    items, difference = shown(drawn, world, method, random)
    better, control = (
        cascade(np.take_along_axis(drawn.liked, order[:, : world.length], axis=1), np.random.default_rng(6)).sum(axis=1)
        for order in drawn.rankings
    )
    clicks = cascade(np.take_along_axis(drawn.liked, items, axis=1), np.random.default_rng(6))
    found = needed(control.astype(np.float64), better.astype(np.float64), (clicks * difference).sum(axis=1))
    assert found.lift > 0.0
    assert found.halves > 3.0 * found.interleaved
