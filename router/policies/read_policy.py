"""What routers draw from, of a declared policy. A gateway does not pay for numerical libraries beyond numpy for it."""

from __future__ import annotations

from broker.records.endpoint import Endpoint
from router.declaration.bandit import LinearConfig
from router.declaration.canary import CanaryConfig
from router.declaration.plain import InterleaveConfig, ShadowConfig, SplitConfig
from router.declaration.policy import read_config, stable_arms, ticks, uniform
from router.policies.base import Policy
from router.policies.interleaving import Interleaving
from router.policies.learned import LearnedLinearPolicy, LearnedPolicy
from router.policies.shadow import Shadow
from router.policies.split import Split


def read_policy(endpoint: Endpoint) -> Policy:
    """Return what routers draw from: with a policy that learns, the weights before anything is known.

    No policy, with one arm, means that arm. Raises Misconfigured.
    """
    config = read_config(endpoint)
    arms = tuple(endpoint.arms)
    if config is None:
        return Split((1.0,))
    if isinstance(config, SplitConfig):
        return Split(tuple(config.split.get(arm, 0.0) for arm in arms), sticky=config.sticky)
    if isinstance(config, ShadowConfig):
        serve, shadow = arms.index(config.serve), arms.index(config.shadow)
        return Shadow(len(arms), serve, shadow, config.sample, config.compare)
    if isinstance(config, InterleaveConfig):
        return _interleaving(config, arms)
    if isinstance(config, CanaryConfig):
        return _canary(config, arms)
    if isinstance(config, LinearConfig):
        return LearnedLinearPolicy(config, uniform(config.arms, arms), tuple(arms.index(arm) for arm in config.arms))
    return LearnedPolicy(config.bandit, uniform(config.arms, arms))


def _interleaving(config: InterleaveConfig, arms: tuple[str, ...]) -> Interleaving:
    return Interleaving(
        arms=len(arms),
        rankers=tuple(sorted(arms.index(arm) for arm in config.interleave)),
        method=config.method,
        length=config.length,
        output=config.output,
        reward=config.credit,
        wait_s=config.wait,
        alpha=config.stop.alpha,
        max_ticks=None if config.stop.max is None else ticks(config.stop.max),
    )


def _canary(config: CanaryConfig, arms: tuple[str, ...]) -> LearnedPolicy:
    share = config.steps[0]
    stable = uniform(stable_arms(config), arms)
    weights = [share if arm == config.canary else (1.0 - share) * stable[place] for place, arm in enumerate(arms)]
    return LearnedPolicy("canary", tuple(weights), sticky=config.sticky)
