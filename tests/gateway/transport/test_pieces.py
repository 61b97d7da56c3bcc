"""Only few requests can begin in the bytes that are parsed at once."""

from __future__ import annotations

from gateway.transport.pieces import CROWDED_BYTES, PIECE_BYTES, head_end, is_one_piece, piece_end

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def test_a_usual_request_is_one_piece() -> None:
    assert is_one_piece(REQUEST)
    assert is_one_piece(REQUEST + b"x" * 4096)


def test_many_requests_and_many_bytes_are_no_single_piece() -> None:
    assert not is_one_piece(REQUEST * 100)
    assert not is_one_piece(b"x" * (PIECE_BYTES + 1))


def test_a_piece_ends_with_the_head_or_with_the_data() -> None:
    assert head_end(REQUEST * 2, 0) == len(REQUEST)
    assert head_end(REQUEST * 2, len(REQUEST)) == 2 * len(REQUEST)
    assert head_end(b"GET / HT", 0) == 8


def test_a_piece_of_a_body_is_small_where_requests_may_begin() -> None:
    assert piece_end(b"x" * 100_000, 0) == PIECE_BYTES
    assert piece_end(REQUEST * 1000, 5) == 5 + CROWDED_BYTES
