"""The settings that must be equal in all gateways and routers of an installation, as each process announces them.

The assignment key itself is never sent. Processes compare a slow one-way hash of it, so that a key chosen by a person
cannot be guessed from the log. The prefix is not compared: processes with different prefixes use different channels and
never read each other's announcements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import pbkdf2_hmac
from typing import Any

from broker.protocol import bundle, header

FIELD = "agreement"
PROTOCOL = header.VERSION
ROUNDS = 100_000
_HASH_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The settings of one process that drawn arms and queues depend on.

    `is_key_given` is True if the key comes from the settings, and False if it was made in the data folder.
    `limit_requests` and `limit_bytes` are the capacity of a queue.
    """

    key: str
    is_key_given: bool
    started_us: int
    limit_requests: int = 0
    limit_bytes: int = 0
    protocol: int = PROTOCOL
    bundle_bytes: int = bundle.BUNDLE_LIMIT_BYTES


def key_hash(key: bytes, prefix: str) -> str:
    """Return the announced hash of an assignment key: equal for equal keys and prefixes."""
    return pbkdf2_hmac("sha256", key, f"millrace assignment {prefix}".encode(), ROUNDS, _HASH_BYTES).hex()


def write_agreement(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement in the form of `full` in an announcement."""
    return {FIELD: asdict(agreement)}


def read_agreement(full: Mapping[str, Any]) -> Agreement | None:
    """Read an agreement from `full` of an announcement; None if there is none or it is malformed."""
    data = full.get(FIELD)
    if not isinstance(data, Mapping):
        return None
    known = {name: data[name] for name in _TYPES if name in data}
    if any(type(value) is not _TYPES[name] for name, value in known.items()):
        return None
    try:
        return Agreement(**known)
    except TypeError:
        return None


_TYPES: Mapping[str, type] = {
    "key": str,
    "is_key_given": bool,
    "started_us": int,
    "limit_requests": int,
    "limit_bytes": int,
    "protocol": int,
    "bundle_bytes": int,
}
