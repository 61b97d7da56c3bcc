"""Weights of the arms for one request, from its features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from router.policies.assignment import cumulative, draw
from router.policies.snapshot import masked


class Weigher(ABC):
    """Weighs the arms for a request by its feature vector. Not safe for several threads."""

    @abstractmethod
    def weights(self, vector: Sequence[float]) -> Sequence[float]:
        """Return the weight of each arm."""

    def pick(self, vector: Sequence[float], mask: int, number: float) -> tuple[int, float]:
        """Return the arm in `mask` that `number`, from [0, 1), draws by the weights, and its probability."""
        probabilities = masked(self.weights(vector), mask)
        arm = draw(cumulative(probabilities), number)
        return arm, probabilities[arm]


class SubsetWeigher(Weigher):
    """The weigher of a policy that uses only some of the endpoint's arms: the others weigh 0."""

    def __init__(self, weigher: Weigher, among: Sequence[int], arms: int) -> None:
        self._weigher, self._among, self._zeros = weigher, among, [0.0] * arms

    def weights(self, vector: Sequence[float]) -> list[float]:
        weights = self._zeros.copy()
        for arm, weight in zip(self._among, self._weigher.weights(vector), strict=True):
            weights[arm] = weight
        return weights
