"""`split`: fixed shares, drawn for each request, or for each key if sticky."""

from __future__ import annotations

from dataclasses import dataclass

from router.policies.policy import Policy
from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True)
class Split(Policy):
    """Fixed weights, one an arm in the order of the declaration."""

    weights: tuple[float, ...]
    sticky: bool = False
    name: str = "split"

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, self.weights)
