"""Measures heads, trailers and chunk framing exactly, although the parser gives only headers and bodies."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.transport.errors import HeadTooLarge

FRAMING_PER_BYTE = 8  # bytes of chunk framing that one byte of a body may have


class HeadMeter:
    """Counts the bytes of the unfinished head or body as they arrived, before the piece that is being parsed."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._piece_bytes = 0
        self._fed_bytes = 0
        self._request_ended = False  # in this piece

    def begin_piece(self, size: int) -> None:
        """Note the size of the piece that will be parsed next."""
        self._piece_bytes, self._request_ended = size, False

    def end_piece(self, size: int) -> None:
        """Count a piece that has been parsed."""
        self._fed_bytes += size

    def begin_head(self) -> None:
        """Start to count a head; the piece may hold bytes of an earlier request, which do not count."""
        self._fed_bytes = -self._piece_bytes if self._request_ended else 0

    def begin_body(self) -> None:
        """Start to count a body; the piece holds bytes of its head, which do not count."""
        self._fed_bytes = -self._piece_bytes

    def end_request(self) -> None:
        """Note that a request has ended in this piece."""
        self._request_ended = True

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise HeadTooLarge if complete headers or trailers are too large."""
        if max(0, self._fed_bytes) + self._piece_bytes <= self._limit_bytes:
            return  # so few bytes have arrived that the headers cannot be too large
        if sum(len(name) + len(value) for name, value in headers) > self._limit_bytes:
            raise self.error()

    def is_head_oversized(self) -> bool:
        """Return True if an unfinished head is too large."""
        return self._fed_bytes > self._limit_bytes

    def is_framing_oversized(self, body_bytes: int) -> bool:
        """Return True if the framing of an unfinished body outweighs its `body_bytes`, as in an attack."""
        return self._fed_bytes > self._limit_bytes + (1 + FRAMING_PER_BYTE) * body_bytes

    def error(self) -> HeadTooLarge:
        """Return the error for headers, trailers or framing that are too large."""
        return HeadTooLarge(f"headers, trailers or chunk framing take more than the {self._limit_bytes} bytes allowed")
