"""What a router knows of a policy that learns: its name, and the weights until the learner has said something.

The learner's own side, which needs numerical libraries, is in the other files here: a gateway does not pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.declaration.bandit import LinearConfig
from router.policies.snapshot import WeightSnapshot


@dataclass(frozen=True, slots=True)
class LearnedPolicy:
    """A policy whose weights come in snapshots: bandits and canaries. `weights` are those of snapshot 0."""

    name: str
    weights: tuple[float, ...]
    sticky: bool = False

    def first(self) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(0, self.weights)


@dataclass(frozen=True, slots=True)
class LearnedLinearPolicy:
    """A policy that weighs the arms for each request by its features; snapshots bring the models for that.

    `weights` are those while nothing is known, `among` the places of its arms among the endpoint's.
    """

    config: LinearConfig
    weights: tuple[float, ...]
    among: tuple[int, ...]
    sticky: bool = False

    @property
    def name(self) -> str:
        """See the protocol."""
        return self.config.bandit

    def first(self) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(0, self.weights)
