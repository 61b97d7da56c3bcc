"""The experiment of a bandit: one reward, folded when its horizon is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.learning.experiment import ClosedReward, Experiment, Once, Posterior, State
from router.policies.learning import HasPosterior, JoinedRewards, Learning, one_run
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import ONE, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditExperiment(Experiment[State]):
    """`among` are the places of the bandit's arms among the endpoint's `arms`, which is their number."""

    learning: Learning[State]
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

    def start(self) -> State:
        return self.learning.start(1)

    def rewarded(self, state: State, name: str, closed: Sequence[ClosedReward], once: Once) -> State:
        del name, once
        return self.learning.fold(state, seen_among(self.among, closed))

    def tick(self, state: State) -> State:
        return self.learning.tick(state)

    def snapshot(self, state: State, number: int) -> WeightSnapshot:
        return WeightSnapshot(number, spread(self.learning.weights(state)[0], self.among, self.arms))

    def runs_by_itself(self, state: State) -> bool:
        # Older rewards count less if a half-life is declared.
        return getattr(self.learning, "half_life", None) is not None and any(self.about(state).get("pulls", ()))

    def posterior(self, state: State, levels: Sequence[float]) -> Posterior | None:
        if not isinstance(self.learning, HasPosterior):
            return None
        best = self.learning.shares(state)[0].tolist()
        quantiles = [self.learning.quantile(state, level)[0].tolist() for level in levels]
        return Posterior(arms=self.among, best=best, quantiles=quantiles)

    def about(self, state: State) -> Mapping[str, Any]:
        return about_arms(state, self.among, self.arms)


def seen_among(among: Sequence[int], closed: Sequence[ClosedReward]) -> JoinedRewards:
    """Return closed rewards in the form that a bandit folds; `among` are the places of its arms at the endpoint."""
    places = {arm: place for place, arm in enumerate(among)}
    mine = [one for one in closed if one.join.arm in places]
    arms = [places[one.join.arm] for one in mine]
    return one_run(arms, [one.value for one in mine], [one.join.propensity for one in mine])


def spread(weights: Floats, among: Sequence[int], arms: int) -> tuple[float, ...]:
    """Return the weights of all `arms` of an endpoint: 0 for the arms that the bandit does not use."""
    spread_out = np.zeros(arms)
    spread_out[list(among)] = weights
    return tuple(float(weight) for weight in spread_out)


def about_arms(state: Any, among: Sequence[int], arms: int) -> dict[str, Any]:
    """Return the number of rewards of each of an endpoint's arms and their mean; empty for a state without counts."""
    if not hasattr(state, "pulls"):
        return {}
    pulls = dict(zip(among, (int(one) for one in state.pulls[0]), strict=True))
    known: dict[str, Any] = {"pulls": [pulls.get(arm, 0) / ONE for arm in range(arms)]}
    if hasattr(state, "rewards"):
        sums = dict(zip(among, (int(one) for one in state.rewards[0]), strict=True))
        known["means"] = [sums[arm] / pulls[arm] if pulls.get(arm) else None for arm in range(arms)]
    return known
