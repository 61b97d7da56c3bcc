"""What a client wishes beyond a plain wait: `Prefer` (RFC 7240) and `Idempotency-Key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from broker.errors import InvalidRequest
from gateway.transport.body import number

KEY_LIMIT = 255
PREFER_LIMIT = 500  # bytes that are looked at
WAIT_LIMIT_S = 60.0  # a client that hung up meanwhile is noticed no sooner


class Preferences(NamedTuple):
    """How a client wants its answer."""

    asynchronous: bool  # 202 when there is no answer within `wait_s`
    wait_s: float | None  # None: not at all if asynchronous, else as long as it is allowed
    key: bytes  # empty: none

    @property
    def stored(self) -> bool:
        """Tell whether the answer has to outlive the gateway."""
        return self.asynchronous or bool(self.key)

    @property
    def applied(self) -> bytes:
        """What Preference-Applied says."""
        return b"respond-async" if self.wait_s is None else b"wait=%d" % self.wait_s


def wishes_of(prefer: Sequence[bytes], keys: Sequence[bytes] = ()) -> Preferences:
    """Read the headers, each as often as it was sent; what is unknown in Prefer is ignored, as RFC 7240 says.

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
    """Return names and values; of one that comes twice the first counts. Parameters behind a `;` mean nothing to us."""
    found: dict[bytes, bytes] = {}
    for part in text.split(b","):
        name, _, value = part.partition(b";")[0].partition(b"=")
        found.setdefault(name.strip().lower(), value.strip().strip(b'"'))
    return found
