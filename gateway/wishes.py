"""What a client wishes beyond a plain wait: `Prefer` (RFC 7240) and `Idempotency-Key`."""

from __future__ import annotations

import re
from typing import NamedTuple

from broker.errors import InvalidRequest
from gateway.body import number

KEY_LIMIT = 255
PREFER_LIMIT = 500  # bytes that are looked at
WAIT_LIMIT_S = 60.0  # a client that hung up meanwhile is noticed no sooner
_PREFERENCE = re.compile(rb'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*"?([^",;]*?)"?)?\s*(?:;[^,]*)?')


class Wishes(NamedTuple):
    """How a client wants its answer."""

    asynchronous: bool  # 202 when there is no answer within `wait_s`
    wait_s: float | None  # None: not at all if asynchronous, else as long as it is allowed
    key: bytes  # empty: none

    @property
    def applied(self) -> bytes:
        """What Preference-Applied says."""
        return b"respond-async" if self.wait_s is None else b"wait=%d" % self.wait_s


def wishes_of(prefer: bytes, key: bytes | None) -> Wishes:
    """Read the headers; what is unknown in Prefer is ignored, as RFC 7240 says. Raises InvalidRequest for a bad key."""
    found: dict[bytes, bytes] = {}
    for part in prefer[:PREFER_LIMIT].split(b","):
        if match := _PREFERENCE.fullmatch(part):
            found.setdefault(match[1].lower(), match[2] or b"")
    wait = number(found[b"wait"]) if b"wait" in found else None
    if key is not None and not 0 < len(key) <= KEY_LIMIT:
        raise InvalidRequest(f"Idempotency-Key: {len(key)} bytes; 1 to {KEY_LIMIT} are a key")
    wait_s = None if wait is None else min(float(wait), WAIT_LIMIT_S)
    return Wishes(b"respond-async" in found or wait is not None, wait_s, key or b"")
