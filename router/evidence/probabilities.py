"""The probabilities of all arms at a decision, from the snapshots that a fold has published."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from router.learning.rows import Decision
from router.policies.policy import Policy
from router.policies.snapshot import WeightSnapshot, masked
from router.policies.weigher import Weigher

AGREES = 1e-9
MODELS_KEPT = 64  # snapshots with models are large


class Probabilities:
    """The published snapshots, oldest first, and the probabilities of decisions that follow from them."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._dimensions = 1 + sum(feature.dimensions for feature in policy.features)  # with the intercept
        self.published: list[tuple[int, tuple[float, ...]]] = []  # publication time in microseconds, and weights
        self._by_number: dict[int, WeightSnapshot] = {}
        self._recent: list[tuple[int, WeightSnapshot]] = []
        self._masked = lru_cache(maxsize=4096)(lambda snapshot, mask: masked(snapshot.weights, mask))
        self._weigher = lru_cache(maxsize=MODELS_KEPT)(self._made)

    def note(self, snapshot: WeightSnapshot, at_us: int) -> None:
        """Add a snapshot that was published at a time (microseconds)."""
        self.published.append((at_us, snapshot.weights))
        self._by_number[snapshot.number] = snapshot
        self._recent.append((at_us, snapshot))
        if len(self._recent) > MODELS_KEPT:
            _, old = self._recent.pop(0)
            if old.models is not None:
                self._by_number.pop(old.number, None)

    def drawn(self, decision: Decision, arm: int) -> Sequence[float] | None:
        """Return the probabilities of a decision; None if its snapshot is unknown, or gives another propensity."""
        snapshot = self._by_number.get(decision.snapshot)
        found = None if snapshot is None else self._of(snapshot, decision)
        return found if found is not None and abs(found[arm] - decision.propensity) <= AGREES else None

    def before(self, decision: Decision) -> Sequence[float] | None:
        """Return the probabilities of the newest snapshot before a decision; None if its features are not logged."""
        snapshot = next((one for at_us, one in reversed(self._recent) if at_us <= decision.accepted_us), None)
        return None if snapshot is None else self._of(snapshot, decision)

    def _of(self, snapshot: WeightSnapshot, decision: Decision) -> Sequence[float] | None:
        if snapshot.models is None:
            return self._masked(snapshot, decision.mask)
        if decision.features is None or len(decision.features) != self._dimensions:
            return None
        return masked(self._weigher(snapshot.number).weights(decision.features), decision.mask)

    def _made(self, number: int) -> Weigher:
        weigher = self._policy.weigher(self._by_number[number])
        if weigher is None:
            raise TypeError(f"{self._policy.name} has no models")
        return weigher
