"""`split`: fixed shares, drawn for each request by itself, or for each key if sticky."""

from __future__ import annotations

from dataclasses import dataclass

from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True)
class Split:
    """Fixed weights, one an arm in the order of the declaration."""

    weights: tuple[float, ...]
    sticky: bool = False

    @property
    def name(self) -> str:
        """See the protocol."""
        return "split"

    def first(self) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(0, self.weights)
