"""What a learner makes of a declared policy: the fold that its weights follow from. It needs numerical libraries."""

from __future__ import annotations

from typing import Any

from broker.records.endpoint import Endpoint
from broker.records.rewards import Reward
from router.declaration.bandit import (
    BanditConfig,
    CountingConfig,
    EpsilonGreedyConfig,
    Exp3Config,
    LinearConfig,
    LinThompsonConfig,
    LinUcbConfig,
    ThompsonConfig,
    UcbConfig,
)
from router.declaration.canary import BadGuardrail, CanaryConfig, Guardrail
from router.declaration.policy import stable_arms, ticks, uniform
from router.policies.base import Contextual, Learning
from router.policies.canary import BadEvents, Canary, RewardDrop
from router.policies.epsilon import EpsilonGreedy
from router.policies.exp3 import Exp3
from router.policies.learned import LearnedLinearPolicy
from router.policies.linear import LinThompson, LinUcb
from router.policies.snapshot import WeightSnapshot
from router.policies.thompson import GaussianThompson, Thompson
from router.policies.ucb import Ucb
from router.policies.weighing import SubsetWeigher, Weigher, weigher
from router.stats.packing import unpacked


def learning_of(config: BanditConfig, arms: int, reward: Reward) -> Learning[Any] | Contextual[Any]:
    """Return the fold of a bandit with so many arms: arm i of it is `config.arms[i]`, a half-life counts ticks.

    Raises ValueError for a reward that it cannot learn from; `read_config` has refused that before.
    """
    if reward.type == "real" and not config.takes_real:
        raise ValueError(f"{config.bandit} learns from rewards from 0 to 1, and {config.reward} is real")
    if isinstance(config, LinearConfig):
        return _linear(config, arms)
    if isinstance(config, CountingConfig):
        return _counting(config, arms)
    raise TypeError(f"nobody learns for {type(config).__name__}")


def dimensions_of(config: BanditConfig) -> int:
    """Return how many numbers the features of a request are, the intercept first; 0 for a bandit that looks at none."""
    return config.dimensions


def weigher_of(policy: LearnedLinearPolicy, snapshot: WeightSnapshot) -> Weigher:
    """Return what weighs an endpoint's arms by a request's features, from a snapshot's models; raises ValueError."""
    learning: Any = _linear(policy.config, len(policy.among))
    own = weigher(learning, unpacked(snapshot.models, learning.start(1)))
    arms = len(policy.weights)
    return own if len(policy.among) == arms else SubsetWeigher(own, policy.among, arms)


def canary_of(config: CanaryConfig, endpoint: Endpoint) -> Canary:
    """Return the state machine of a canary, over the endpoint's arms; a bandit on its stable side begins uniform."""
    return Canary(
        canary=list(endpoint.arms).index(config.canary),
        stable=uniform(stable_arms(config), endpoint.arms),
        steps=config.steps,
        hold_requests=config.hold.canary_requests,
        hold_ticks=ticks(config.hold.time),
        guardrails=tuple(_guardrail(rail) for rail in config.guardrails),
        alpha=config.alpha,
        on_no_data=config.on_no_data,
        timeout_ticks=ticks(config.timeout),
        sticky=config.sticky,
    )


def _linear(config: LinearConfig, arms: int) -> Contextual[Any]:
    shape: dict[str, Any] = {
        "arms": arms,
        "dimensions": config.dimensions,
        "ridge": config.ridge,
        "floor": config.floor,
    }
    if isinstance(config, LinUcbConfig):
        return LinUcb(**shape, alpha=config.alpha)
    if isinstance(config, LinThompsonConfig):
        return LinThompson(**shape, scale=config.scale)
    raise TypeError(f"nobody learns for {type(config).__name__}")


def _counting(config: CountingConfig, arms: int) -> Learning[Any]:
    shape: dict[str, Any] = {"arms": arms, "floor": config.floor, "half_life": config.discount}  # a tick is a second
    if isinstance(config, ThompsonConfig):
        return GaussianThompson(**shape) if config.noise == "gaussian" else Thompson(**shape, prior=config.prior)
    if isinstance(config, EpsilonGreedyConfig):
        return EpsilonGreedy(**shape, epsilon=config.epsilon)
    if isinstance(config, UcbConfig):
        return Ucb(**shape, kind=config.kind)
    if isinstance(config, Exp3Config):
        return Exp3(**shape, rate=None if config.rate == "auto" else config.rate)
    raise TypeError(f"nobody learns for {type(config).__name__}")


def _guardrail(rail: Guardrail) -> BadEvents | RewardDrop:
    if isinstance(rail, BadGuardrail):
        return BadEvents(rail.max_ratio, rail.max_rate)
    return RewardDrop(rail.max_drop)
