"""Uids, random and derived ones, the clock, and the keyed hash that draws decisions."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

UID_BYTES = 16
_VERSION_7 = 0x7 << 76
_VERSION_8 = 0x8 << 76
_VARIANT = 0x2 << 62
_CLEAR = ~((0xF << 76) | (0x3 << 62))


GRACE_S = 60.0

_shift_us = 0
_former: list[tuple[float, int]] = []  # (when it ended, shift), of the last GRACE_S


def wall_us() -> int:
    """Return this machine's clock in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def now_us() -> int:
    """Return the installation's time in microseconds since the epoch, UTC: this machine's clock, corrected.

    `broker.delivery.clocks` measures the correction.
    """
    return time.time_ns() // 1000 + _shift_us


def shift_clock(by_us: int) -> None:
    """Add `by_us` to this machine's clock in `now_us` from now on."""
    global _shift_us
    now_s = time.monotonic()
    _former[:] = [*_recent_shifts(now_s), (now_s, _shift_us)]
    _shift_us = by_us


def is_over(deadline_us: int, now_us: int) -> bool:
    """Return True if a deadline has passed; 0 is no deadline.

    For `GRACE_S` after a correction of the clock, the earliest of the times counts, because older deadlines use them.
    """
    if not deadline_us or now_us <= deadline_us:
        return False
    earliest_us = min([_shift_us, *[shift_us for _, shift_us in _recent_shifts(time.monotonic())]])
    return now_us - (_shift_us - earliest_us) > deadline_us


def _recent_shifts(now_s: float) -> list[tuple[float, int]]:
    return [(ended_s, shift_us) for ended_s, shift_us in _former if now_s - ended_s < GRACE_S]


def new_uid(accepted_us: int, entropy: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return a UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, then 74 random bits."""
    random = int.from_bytes(entropy(10), "big")
    value = ((accepted_us // 1000) & 0xFFFFFFFFFFFF) << 80 | random
    return (value & _CLEAR | _VERSION_7 | _VARIANT).to_bytes(UID_BYTES, "big")


def derived_uid(*parts: bytes) -> bytes:
    """Return a UUIDv8 from blake2b over `parts`: equal parts give equal uids."""
    digest = hashlib.blake2b(digest_size=UID_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    value = int.from_bytes(digest.digest(), "big")
    return (value & _CLEAR | _VERSION_8 | _VARIANT).to_bytes(UID_BYTES, "big")


def uid_text(uid: bytes) -> str:
    """Return a uid in the usual form, 8-4-4-4-12 hexadecimal digits."""
    text = uid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uid_of(text: str) -> bytes:
    """Read a uid written by `uid_text`; raises ValueError for anything else."""
    uid = bytes.fromhex(text.replace("-", ""))
    if len(uid) != UID_BYTES:
        raise ValueError(f"{text!r} is not a request id: a request id has 32 hexadecimal digits")
    return uid


def uniform(key: bytes, salt: bytes, identity: bytes) -> float:
    """Draw a number in [0, 1) from a keyed hash of `identity`: blake2b's first 53 bits, exact in a float.

    Without the secret `key` (at most 64 bytes), a client cannot choose an identity for its draw. `salt` separates
    experiments.
    """
    return uniform_for(key, salt)(identity)


def uniform_for(key: bytes, salt: bytes) -> Callable[[bytes], float]:
    """Return a function that draws like `uniform` for one key and salt, which are hashed only once."""
    copy, whole = hashlib.blake2b(salt + b"\0", key=key, digest_size=8).copy, int.from_bytes

    def draw(identity: bytes) -> float:
        digest = copy()
        digest.update(identity)
        return (whole(digest.digest()) >> 11) * 2.0**-53

    return draw
