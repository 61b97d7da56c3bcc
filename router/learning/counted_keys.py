"""The request keys that have been counted: each key counts once for each reward or guardrail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

KEYS_LIMIT = 250_000  # keys of one experiment; later keys do not count


class CountedKeys:
    """Hashes of keys (8 bytes each), by kind: a reward's name, or a guardrail."""

    def __init__(self) -> None:
        self.by_kind: dict[str, set[bytes]] = {}
        self._unsaved: list[tuple[str, bytes]] = []

    def is_first(self, kind: str, key: str) -> bool:
        """Return True if this key has not been counted for `kind` yet, and count it; always True for an empty key.

        Returns False for every new key once `KEYS_LIMIT` keys are held.
        """
        if not key:
            return True
        known = self.by_kind.setdefault(kind, set())
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        if digest in known or sum(map(len, self.by_kind.values())) >= KEYS_LIMIT:
            return False
        known.add(digest)
        self._unsaved.append((kind, digest))
        return True

    def take_unsaved(self) -> list[tuple[str, bytes]]:
        """Return the keys that were counted since the last call."""
        unsaved, self._unsaved = self._unsaved, []
        return unsaved

    def restore(self, by_kind: Mapping[str, Iterable[bytes]]) -> None:
        """Replace all keys by saved ones."""
        self.by_kind = {kind: set(keys) for kind, keys in by_kind.items()}

    def written(self) -> dict[str, list[str]]:
        """Return the keys as JSON, in hexadecimal, sorted."""
        return {kind: sorted(key.hex() for key in keys) for kind, keys in sorted(self.by_kind.items())}

    def read(self, written: Any) -> None:
        """Restore the keys from `written`; raises ValueError for anything else."""
        try:
            self.by_kind = {kind: {bytes.fromhex(key) for key in keys} for kind, keys in written.items()}
        except (TypeError, AttributeError) as exc:
            raise ValueError(f"these are no keys: {exc}") from exc
