"""A bandit that looks at features, as an experiment: snapshots carry its models, and routers compute the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.learning.bandit import seen_among, spread
from router.learning.experiment import ClosedReward, CreditedDecision, Once
from router.policies.linear import Linear, LinearModels
from router.policies.snapshot import WeightSnapshot
from router.stats.packing import packed

MOST = 256.0  # a reward beyond counts as this: one of any size would be an arm's whole model


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextualExperiment:
    """`among` are the places of its arms among the endpoint's `arms`. Decisions without features are not credited."""

    learning: Linear
    arms: int
    among: tuple[int, ...]
    reward: str
    refresh_ticks: int = 5

    @property
    def policy(self) -> str:
        """See the protocol."""
        return self.learning.name

    @property
    def rewards(self) -> tuple[str, ...]:
        """See the protocol."""
        return (self.reward,)

    def start(self) -> LinearModels:
        """See the protocol."""
        return self.learning.start(1)

    def decided(self, state: LinearModels, credited: Sequence[CreditedDecision], once: Once) -> LinearModels:
        """See the protocol: a decision says nothing before its reward."""
        del credited, once
        return state

    def rewarded(self, state: LinearModels, name: str, closed: Sequence[ClosedReward], once: Once) -> LinearModels:
        """See the protocol."""
        del name, once
        size = self.learning.dimensions
        known = [one for one in closed if one.join.features and len(one.join.features) == size]
        known = [one for one in known if one.join.arm in self.among]
        if not known:
            return state
        features = np.array([one.join.features for one in known], np.float64)
        seen = seen_among(self.among, known)
        bounded = np.minimum(np.maximum(seen.reward, -MOST), MOST)
        return self.learning.fold(state, replace(seen, reward=bounded), features)

    def tick(self, state: LinearModels) -> LinearModels:
        """See the protocol."""
        return state

    def ordered(self, state: LinearModels, word: str) -> LinearModels:
        """See the protocol."""
        del word
        return state

    def snapshot(self, state: LinearModels, number: int) -> WeightSnapshot:
        """See the protocol."""
        weights = spread(np.array(self.learning.first().weights), self.among, self.arms)
        return WeightSnapshot(number, weights, packed(state) if state.rewarded.any() else None)

    def phase(self, state: LinearModels) -> str:
        """See the protocol."""
        del state
        return "learning"

    def is_over(self, state: LinearModels) -> bool:
        """See the protocol."""
        del state
        return False

    def runs_by_itself(self, state: LinearModels) -> bool:
        """See the protocol."""
        del state
        return False

    def about(self, state: LinearModels) -> Mapping[str, Any]:
        """See the protocol."""
        norms = np.sqrt((state.rewarded[0] ** 2).sum(axis=-1))
        return {"rewarded": [float(norm) for norm in norms]}
