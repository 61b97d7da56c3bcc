"""Drawing an arm by the weights of the snapshot in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from broker.protocol.ids import uniform_for
from router.policies.assignment import cumulative, draw, rendezvous
from router.policies.snapshot import WeightSnapshot, masked


class ArmDraw:
    """Draws arms of one endpoint by a hash of the assignment key, the experiment's `salt` and an identity."""

    def __init__(self, arms: Sequence[str], key: bytes, salt: bytes, *, sticky: bool) -> None:
        self._is_single = len(arms) == 1
        self._sticky = sticky
        self._rendezvous = rendezvous(arms, key, salt)
        self._sums: Callable[[int], tuple[list[float], list[float]]]
        self.number = uniform_for(key, salt)
        """Returns a number in [0, 1) for an identity."""

    def follow(self, snapshot: WeightSnapshot) -> None:
        """Draw by the weights of this snapshot from now on."""
        self._sums = lru_cache(maxsize=64)(partial(_cumulative, snapshot.weights))

    def draw(self, identity: bytes, mask: int) -> tuple[int, Sequence[float]]:
        """Draw an arm among those in `mask`; return its place, and the probabilities of all arms."""
        probabilities, sums = self._sums(mask)
        if self._is_single:
            arm = 0
        elif self._sticky:
            arm = self._rendezvous(probabilities, identity)
        else:
            arm = draw(sums, self.number(identity))
        return arm, probabilities


def _cumulative(weights: Sequence[float], mask: int) -> tuple[list[float], list[float]]:
    probabilities = masked(weights, mask)
    return probabilities, cumulative(probabilities)
