"""Policies that learn, as routers draw from them: a name, and weights until the learner publishes a snapshot.

The learner's part of them needs numerical libraries, which gateways do not load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.declaration.features import Feature
from router.policies.policy import Policy
from router.policies.snapshot import WeightSnapshot

if TYPE_CHECKING:
    from router.policies.learning import Contextual
    from router.policies.weigher import Weigher


@dataclass(frozen=True, slots=True)
class LearnedPolicy(Policy):
    """A policy whose weights come in snapshots: bandits and canaries. `weights` are those of snapshot 0."""

    name: str = field()
    weights: tuple[float, ...]
    sticky: bool = False

    @property
    def learns(self) -> bool:
        return True

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLinearPolicy(Policy):
    """A policy that weighs the arms for each request by its features, with the models in its snapshots.

    `weights` are those before the first models, `among` the places of its arms among the endpoint's. `learning`
    returns the learner's fold, which knows the form of the models.
    """

    name: str = field()
    features: tuple[Feature, ...] = field()
    weights: tuple[float, ...]
    among: tuple[int, ...]
    learning: Callable[[], Contextual[Any]] = field(compare=False)

    @property
    def learns(self) -> bool:
        return True

    def first(self) -> WeightSnapshot:
        return WeightSnapshot(0, self.weights)

    def weigher(self, snapshot: WeightSnapshot) -> Weigher | None:
        return None if snapshot.models is None else self.weigher_from(snapshot.models)

    def weigher_from(self, models: Any) -> Weigher:
        """Return the weigher with the models of a snapshot; raises ValueError for those of another policy."""
        from router.policies.weigher import SubsetWeigher
        from router.stats.packing import unpacked

        learning = self.learning()
        own = learning.weigher(unpacked(models, learning.start(1)))
        arms = len(self.weights)
        return own if len(self.among) == arms else SubsetWeigher(own, self.among, arms)
