"""Cuts incoming bytes into pieces, so that only few requests can begin in the bytes that are parsed at once."""

from __future__ import annotations

PIECE_BYTES = 16 * 1024  # parsed at once, except a head or a body whose length is known
PIECE_LINES = 64  # a request has at least two lines: at most half as many requests begin in a piece
CROWDED_BYTES = 512  # parsed at once where there are more lines: these bytes have room for few requests
HEAD_END = b"\r\n\r\n"


def is_one_piece(data: bytes) -> bool:
    """Return True if all of these bytes may be parsed at once."""
    return len(data) <= PIECE_BYTES and not _is_crowded(data, 0, len(data))


def head_end(data: bytes, at: int) -> int:
    """Return where to stop parsing between requests or in a head: at the end of the head."""
    end = data.find(HEAD_END, at)
    return len(data) if end < 0 else end + len(HEAD_END)


def piece_end(data: bytes, at: int) -> int:
    """Return where to stop parsing in a body of unknown length."""
    end = at + PIECE_BYTES
    return at + CROWDED_BYTES if _is_crowded(data, at, end) else end


def _is_crowded(data: bytes, at: int, end: int) -> bool:
    """Return True if many requests may begin in these bytes."""
    if end - at > CROWDED_BYTES:
        for _ in range(PIECE_LINES):
            at = data.find(b"\r", at, end) + 1
            if not at:
                return False
        return True
    return False
