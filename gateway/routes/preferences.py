"""The headers with which a client asks for more than a plain wait: `Prefer` (RFC 7240) and `Idempotency-Key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from broker.errors import InvalidRequest
from gateway.transport.body import number

KEY_LIMIT = 255
PREFER_LIMIT = 500  # bytes that are read
WAIT_LIMIT_S = 60.0  # a client that disconnects meanwhile is noticed only after this wait


class Preferences(NamedTuple):
    """The way in which a client wants its answer."""

    asynchronous: bool  # 202 when there is no answer within `wait_s`
    wait_s: float | None  # None: no wait if asynchronous, else until the deadline
    key: bytes  # empty if there is none

    @property
    def stored(self) -> bool:
        """True if the answer must survive this gateway."""
        return self.asynchronous or bool(self.key)

    @property
    def applied(self) -> bytes:
        """The value of the header Preference-Applied."""
        return b"respond-async" if self.wait_s is None else b"wait=%d" % self.wait_s


def preferences_of(prefer: Sequence[bytes], keys: Sequence[bytes] = ()) -> Preferences:
    """Read both headers; each sequence has one entry per header line. Unknown preferences are ignored (RFC 7240).

    Raises InvalidRequest for a bad key.
    """
    found = _preferences(b",".join(prefer)[:PREFER_LIMIT])
    wait = number(found[b"wait"]) if b"wait" in found else None
    if len(keys) > 1:
        raise InvalidRequest(f"Idempotency-Key: {len(keys)} of them; send one")
    if keys and not 0 < len(keys[0]) <= KEY_LIMIT:
        raise InvalidRequest(f"Idempotency-Key: {len(keys[0])} bytes; 1 to {KEY_LIMIT} are a key")
    wait_s = None if wait is None else min(float(wait), WAIT_LIMIT_S)
    return Preferences(b"respond-async" in found or wait is not None, wait_s, keys[0] if keys else b"")


def _preferences(text: bytes) -> dict[bytes, bytes]:
    """Values by name; the first value of a name counts. Parameters after a `;` are ignored."""
    found: dict[bytes, bytes] = {}
    for part in text.split(b","):
        name, _, value = part.partition(b";")[0].partition(b"=")
        found.setdefault(name.strip().lower(), value.strip().strip(b'"'))
    return found
