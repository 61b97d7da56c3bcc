"""The experiment of a linear bandit: snapshots carry its models, and routers compute the weights of each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.learning.bandit import seen_among, spread
from router.learning.experiment import ClosedReward, Experiment, Once
from router.policies.linear import Linear
from router.policies.linear_models import LinearModels
from router.policies.snapshot import WeightSnapshot
from router.stats.packing import packed

REWARD_LIMIT = 256.0  # larger rewards of either sign are cut to it: a single huge one would determine an arm's model


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextualExperiment(Experiment[LinearModels]):
    """`among` are the places of the bandit's arms among the endpoint's `arms`, which is their number.

    Decisions without features are not credited.
    """

    learning: Linear
    arms: int
    among: tuple[int, ...]
    reward: str
    refresh_ticks: int = 5

    @property
    def policy(self) -> str:
        return self.learning.name

    @property
    def rewards(self) -> tuple[str, ...]:
        return (self.reward,)

    def start(self) -> LinearModels:
        return self.learning.start(1)

    def rewarded(self, state: LinearModels, name: str, closed: Sequence[ClosedReward], once: Once) -> LinearModels:
        del name, once
        size = self.learning.dimensions
        known = [one for one in closed if one.join.features and len(one.join.features) == size]
        known = [one for one in known if one.join.arm in self.among]
        if not known:
            return state
        features = np.array([one.join.features for one in known], np.float64)
        seen = seen_among(self.among, known)
        bounded = np.minimum(np.maximum(seen.reward, -REWARD_LIMIT), REWARD_LIMIT)
        return self.learning.fold(state, replace(seen, reward=bounded), features)

    def snapshot(self, state: LinearModels, number: int) -> WeightSnapshot:
        weights = spread(np.array(self.learning.first().weights), self.among, self.arms)
        return WeightSnapshot(number, weights, packed(state) if state.rewarded.any() else None)

    def about(self, state: LinearModels) -> Mapping[str, Any]:
        norms = np.sqrt((state.rewarded[0] ** 2).sum(axis=-1))
        return {"rewarded": [float(norm) for norm in norms]}
