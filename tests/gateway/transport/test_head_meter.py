"""Heads and framing are measured as they arrived, without the bytes of other requests in the same piece."""

from __future__ import annotations

import pytest

from gateway.transport.errors import HeadTooLarge
from gateway.transport.head_meter import HeadMeter

LARGE = [(b"x", b"a" * 100)]


def metered(*pieces: int) -> HeadMeter:
    """Return a meter with a limit of 100 bytes, after these pieces of one head."""
    meter = HeadMeter(100)
    for number, size in enumerate(pieces):
        meter.begin_piece(size)
        if not number:
            meter.begin_head()
        meter.end_piece(size)
    return meter


def test_an_unfinished_head_may_have_the_limit_and_no_more() -> None:
    assert not metered(60, 40).is_head_oversized()
    assert metered(60, 41).is_head_oversized()


def test_complete_headers_over_the_limit_are_refused() -> None:
    meter = metered(60)
    meter.begin_piece(60)
    with pytest.raises(HeadTooLarge, match="more than the 100 bytes allowed"):
        meter.check(LARGE)
    meter.check([(b"x", b"a" * 50)])  # the rest was framing, not headers


def test_the_bytes_of_an_earlier_request_in_the_piece_do_not_count() -> None:
    meter = metered(90)
    meter.begin_piece(90)
    meter.end_request()
    meter.begin_head()
    meter.end_piece(90)
    assert not meter.is_head_oversized()


def test_framing_may_be_eight_times_a_body_beside_the_limit() -> None:
    meter = metered(10)
    meter.begin_piece(10)
    meter.begin_body()
    meter.end_piece(10)
    meter.begin_piece(190)
    meter.end_piece(190)
    assert not meter.is_framing_oversized(10)
    meter.begin_piece(1)
    meter.end_piece(1)
    assert meter.is_framing_oversized(10)
