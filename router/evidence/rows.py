"""The number of requests of each arm by outcome, under any policy."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from broker.protocol.header import BY_WORD
from router.declaration.registry import has_shadow
from router.stats.arrays import Floats

REMEMBERED = 500_000
ARMS_LIMIT = 512  # pairs of an arm and a policy: a log may hold any number of names
OTHER = "other"
QUANTILES = (0.5, 0.9, 0.99)
SHADOW = "shadow of it"


class RepeatFilter:
    """Finds repeated values. It remembers at least the last `REMEMBERED` different ones, and at most twice as many."""

    def __init__(self) -> None:
        self._new: set[Any] = set()
        self._old: set[Any] = set()

    def __call__(self, value: Any) -> bool:
        """Return True if a value came before, and remember it."""
        if value in self._new or value in self._old:
            return True
        self._new.add(value)
        if len(self._new) >= REMEMBERED:
            self._old, self._new = self._new, set()
        return False


@dataclass(slots=True)
class Arm:
    """One arm under one policy: its requests by status, its rows, and the latencies of its answers."""

    statuses: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    latency_us: array[int] = field(default_factory=lambda: array("q"))

    def quantiles_ms(self) -> list[float | None]:
        """Return the quantiles of the time from acceptance to answer."""
        return quantiles_ms(np.array(self.latency_us, np.float64))


class ArmRows:
    """Requests by (arm, policy); shadows are counted separately."""

    def __init__(self) -> None:
        self.arms: dict[tuple[str, str], Arm] = {}
        self.duplicates = 0
        self._repeats = RepeatFilter()

    def add(self, rows: Any) -> None:
        """Add an event's rows (an Arrow record batch); raises KeyError if a column is missing."""
        columns = ("uid", "leg", "row", "arm", "policy", "status", "accepted_us", "published_us")
        current, is_new = None, False
        for uid, leg, row, arm, policy, status, accepted, published in zip(
            *(rows.column(name).to_pylist() for name in columns), strict=True
        ):
            if row == 0 or current != (uid, leg):
                current, is_new = (uid, leg), not self._repeats((uid, leg))
                self.duplicates += not is_new
                if is_new:
                    self._ended(arm or "", policy or "", leg, status or "", published - accepted)
            if is_new:
                self._of(arm or "", policy or "", leg).rows += 1

    def _ended(self, arm: str, policy: str, leg: int, status: str, latency_us: int) -> None:
        found = self._of(arm, policy, leg)
        found.statuses[status if status in BY_WORD else OTHER] += 1
        if status == "ok" and 0 <= latency_us < 1 << 62:
            found.latency_us.append(latency_us)

    def _of(self, arm: str, policy: str, leg: int) -> Arm:
        key = (arm, f"{policy} ({SHADOW})" if leg and has_shadow(policy) else policy)
        if key not in self.arms and len(self.arms) >= ARMS_LIMIT:
            key = (OTHER, OTHER)
        return self.arms.setdefault(key, Arm())


def quantiles_ms(values_us: Floats, at: Sequence[float] = QUANTILES) -> list[float | None]:
    """Return quantiles of microseconds in milliseconds; None for each if there are no values."""
    if not len(values_us):
        return [None] * len(at)
    return [float(one) / 1000.0 for one in np.quantile(values_us, at)]
