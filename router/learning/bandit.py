"""A bandit as an experiment: one reward, folded when its horizon is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from router.learning.experiment import ClosedReward, CreditedDecision, Once, State
from router.policies.base import JoinedRewards, Learning, one_run
from router.policies.snapshot import WeightSnapshot
from router.stats.arrays import ONE, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditExperiment(Generic[State]):
    """`among` are the places of its arms among the endpoint's `arms`; `refresh_ticks` is how long a snapshot lasts."""

    learning: Learning[State]
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

    def start(self) -> State:
        """See the protocol."""
        return self.learning.start(1)

    def decided(self, state: State, credited: Sequence[CreditedDecision], once: Once) -> State:
        """See the protocol: a decision says nothing before its reward."""
        del credited, once
        return state

    def rewarded(self, state: State, name: str, closed: Sequence[ClosedReward], once: Once) -> State:
        """See the protocol."""
        del name, once
        return self.learning.fold(state, seen_among(self.among, closed))

    def tick(self, state: State) -> State:
        """See the protocol."""
        return self.learning.tick(state)

    def ordered(self, state: State, word: str) -> State:
        """See the protocol."""
        del word
        return state

    def snapshot(self, state: State, number: int) -> WeightSnapshot:
        """See the protocol."""
        return WeightSnapshot(number, spread(self.learning.weights(state)[0], self.among, self.arms))

    def phase(self, state: State) -> str:
        """See the protocol."""
        del state
        return "learning"

    def is_over(self, state: State) -> bool:
        """See the protocol."""
        del state
        return False

    def runs_by_itself(self, state: State) -> bool:
        """See the protocol: older rewards count less, if a half-life is declared."""
        return getattr(self.learning, "half_life", None) is not None and any(self.about(state).get("pulls", ()))

    def about(self, state: State) -> Mapping[str, Any]:
        """Return how many rewards each arm has had, and their mean, where that is what the policy keeps."""
        return about_arms(state, self.among, self.arms)


def seen_among(among: Sequence[int], closed: Sequence[ClosedReward]) -> JoinedRewards:
    """Return rewards as a policy folds them whose arms are `among` the endpoint's."""
    places = {arm: place for place, arm in enumerate(among)}
    mine = [one for one in closed if one.join.arm in places]
    arms = [places[one.join.arm] for one in mine]
    return one_run(arms, [one.value for one in mine], [one.join.propensity for one in mine])


def spread(weights: Floats, among: Sequence[int], arms: int) -> tuple[float, ...]:
    """Return the weights of all `arms` of an endpoint: 0 for those that a policy does not use."""
    spread_out = np.zeros(arms)
    spread_out[list(among)] = weights
    return tuple(float(weight) for weight in spread_out)


def about_arms(state: Any, among: Sequence[int], arms: int) -> dict[str, Any]:
    """Return the rewards counted of each of an endpoint's arms, and their mean (None without any)."""
    if not hasattr(state, "pulls"):
        return {}
    pulls = dict(zip(among, (int(one) for one in state.pulls[0]), strict=True))
    known: dict[str, Any] = {"pulls": [pulls.get(arm, 0) / ONE for arm in range(arms)]}
    if hasattr(state, "rewards"):
        sums = dict(zip(among, (int(one) for one in state.rewards[0]), strict=True))
        known["means"] = [sums[arm] / pulls[arm] if pulls.get(arm) else None for arm in range(arms)]
    return known
