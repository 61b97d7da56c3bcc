"""Ignores offers to upgrade a connection, as RFC 9110 allows: httptools would stop parsing there."""

from __future__ import annotations

from collections.abc import Sequence

NOT_FORWARDED = frozenset((b"upgrade", b"http2-settings"))


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write the head of a request again, without its offer to upgrade."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in NOT_FORWARDED)
        if name not in NOT_FORWARDED:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join((*lines, b"\r\n"))
