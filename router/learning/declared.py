"""What an endpoint's declaration says is to be learnt."""

from __future__ import annotations

from typing import Any

from broker.records.endpoint import Endpoint
from router.declaration.bandit import BanditConfig, LinearConfig
from router.declaration.canary import BadGuardrail, CanaryConfig, Guardrail
from router.declaration.plain import InterleaveConfig
from router.declaration.policy import read_config, stable_arms, ticks
from router.learning.experiment import Experiment
from router.policies.interleaving import Interleaving
from router.policies.read_policy import read_policy


def read_experiment(endpoint: Endpoint) -> Experiment[Any] | None:
    """Return the experiment of a policy that learns, None for one that does not. Raises Misconfigured.

    Numerical libraries are imported when there is one.
    """
    config = read_config(endpoint)
    if isinstance(config, CanaryConfig):
        return _staged(config, endpoint)
    if isinstance(config, BanditConfig):
        return _bandit(config, endpoint)
    if isinstance(config, InterleaveConfig):
        return _interleaved(endpoint)
    return None


def _bandit(config: BanditConfig, endpoint: Endpoint) -> Experiment[Any]:
    from router.learning.bandit import BanditExperiment
    from router.learning.contextual import ContextualExperiment
    from router.policies.build import learning_of

    learning: Any = learning_of(config, len(config.arms), endpoint.feedback.rewards[config.reward])
    kind = ContextualExperiment if isinstance(config, LinearConfig) else BanditExperiment
    made: Experiment[Any] = kind(
        learning=learning,
        arms=len(endpoint.arms),
        among=_places(config.arms, endpoint),
        reward=config.reward,
        refresh_ticks=ticks(config.refresh),
    )
    return made


def _staged(config: CanaryConfig, endpoint: Endpoint) -> Experiment[Any]:
    from router.learning.canary import CanaryExperiment, GuardrailWatch, NestedBandit
    from router.policies.build import canary_of, learning_of

    def watch(rail: Guardrail) -> GuardrailWatch:
        if not isinstance(rail, BadGuardrail):
            return GuardrailWatch(reward=rail.reward)
        return GuardrailWatch(over_us=None if rail.over is None else round(rail.over * 1e6))

    nested = None
    if isinstance(config.stable, BanditConfig):
        reward, among = endpoint.feedback.rewards[config.stable.reward], _places(stable_arms(config), endpoint)
        joined: Any = learning_of(config.stable, len(among) + 1, reward) if config.on_promote == "join" else None
        learning: Any = learning_of(config.stable, len(among), reward)
        nested = NestedBandit(learning=learning, joined=joined, among=among, reward=config.stable.reward)
    return CanaryExperiment(
        canary=canary_of(config, endpoint), watches=tuple(map(watch, config.guardrails)), nested=nested
    )


def _interleaved(endpoint: Endpoint) -> Experiment[Any] | None:
    from router.learning.interleaving import InterleavingExperiment

    policy = read_policy(endpoint)
    return InterleavingExperiment(declared=policy) if isinstance(policy, Interleaving) else None


def _places(arms: tuple[str, ...], endpoint: Endpoint) -> tuple[int, ...]:
    known = list(endpoint.arms)
    return tuple(known.index(arm) for arm in arms)
