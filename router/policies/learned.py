"""What a router knows of a policy that learns: its name, and the weights until the learner has said something.

The learner's own side, which needs numerical libraries, is in the other files here: a gateway does not pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Learned:
    """A policy whose weights come in snapshots: bandits and canaries. `weights` are those of snapshot 0."""

    name: str
    weights: tuple[float, ...]
    sticky: bool = False

    def first(self) -> Snapshot:
        """See the protocol."""
        return Snapshot(0, self.weights)
