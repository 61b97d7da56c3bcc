"""Decisions as columns: the drawn arm, the probabilities, and the rewards."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.learning.experiment import ClosedReward, CreditedDecision
from router.stats.arrays import Bools, Floats, Ints

NOT_KNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions that count, in the order of the log; each column has one entry a decision.

    `weights` (decisions, arms) are the probabilities of all arms, NaN if they are unknown. `key` is a hash, 0 for no
    key. A reward is NaN while its horizon is open, or if it is left out (`skip`).
    """

    arm: Ints
    propensity: Floats
    weights: Floats
    accepted_us: Ints
    latency_us: Ints
    key: Ints
    rewards: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.arm)

    @property
    def is_known(self) -> Bools:
        """True for the decisions whose probabilities of all arms are known."""
        known: Bools = ~np.isnan(self.weights[:, 0])
        return known

    def only(self, kept: Bools) -> Decisions:
        """Return the decisions for which `kept` is True."""
        columns = {name: getattr(self, name)[kept] for name in _COLUMNS}
        return replace(self, **columns, rewards={name: values[kept] for name, values in self.rewards.items()})

    def first_of_keys(self) -> Bools:
        """Return True for the first decision of each key, and for all decisions without a key.

        The decisions of a sticky key are one draw.
        """
        first: Bools = self.key == 0
        _, places = np.unique(self.key, return_index=True)
        first[places] = True
        return first


_COLUMNS = ("arm", "propensity", "weights", "accepted_us", "latency_us", "key")


class Columns:
    """Collects decisions while the log is read."""

    def __init__(self, arms: int, rewards: Sequence[str]) -> None:
        self._arms = arms
        self._place, self._arm, self._key = array("q"), array("q"), array("q")
        self._propensity, self._weights = array("d"), array("d")
        self._accepted, self._latency = array("q"), array("q")
        self._rewards = {name: array("d") for name in rewards}

    def __len__(self) -> int:
        return len(self._arm)

    def add(self, place: int, credited: CreditedDecision, weights: Sequence[float] | None) -> None:
        """Add a decision; `place` is that of its join, which only grows, or -1 without a join."""
        decision = credited.decision
        self._place.append(place)
        self._arm.append(credited.arm)
        self._propensity.append(decision.propensity)
        self._weights.extend([NOT_KNOWN] * self._arms if weights is None else weights)
        self._accepted.append(decision.accepted_us)
        self._latency.append(decision.latency_us)
        self._key.append(_digest(decision.key))
        for values in self._rewards.values():
            values.append(NOT_KNOWN)

    def close(self, name: str, closed: ClosedReward) -> None:
        """Set the value of a reward whose horizon is over."""
        at = bisect_left(self._place, closed.join.place)
        if at < len(self._place) and self._place[at] == closed.join.place:
            self._rewards[name][at] = closed.value

    def decisions(self) -> Decisions:
        """Return the collected decisions."""
        return Decisions(
            _ints(self._arm),
            _floats(self._propensity),
            _floats(self._weights).reshape(-1, self._arms),
            _ints(self._accepted),
            _ints(self._latency),
            _ints(self._key),
            {name: _floats(values) for name, values in self._rewards.items()},
        )


def _digest(key: str) -> int:
    if not key:
        return 0
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def _ints(values: array[int]) -> Ints:
    return np.array(values, np.int64)


def _floats(values: array[float]) -> Floats:
    return np.array(values, np.float64)
