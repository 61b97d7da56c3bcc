"""The `policy` of an endpoint's declaration: read, checked against the rest of it, and made what routers draw from.

Nothing here needs numerical libraries: a gateway does not pay for them. A learner makes its side of a policy from the
same configuration in `router/policies/build.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from broker.endpoint import Endpoint
from broker.errors import Misconfigured
from broker.strict import meant, read_model, shown
from router.bandit_config import BanditConfig, LinearConfig, bandit_named
from router.canary_config import CanaryConfig
from router.policies.base import Policy
from router.policies.interleaving import Interleaving
from router.policies.learned import Learned, LearnedByFeatures
from router.policies.shadow import Shadow
from router.policies.split import Split
from router.policy_checks import checked
from router.policy_models import InterleaveConfig, ShadowConfig, SplitConfig

Config: TypeAlias = SplitConfig | ShadowConfig | CanaryConfig | BanditConfig | InterleaveConfig

POLICIES: Mapping[str, type[Config]] = {
    "split": SplitConfig,
    "shadow": ShadowConfig,
    "canary": CanaryConfig,
    "bandit": BanditConfig,
    "interleave": InterleaveConfig,
}


def read_config(endpoint: Endpoint) -> Config | None:
    """Return what an endpoint's policy says, None if it has none (and so one arm). Raises Misconfigured.

    It fits the rest of the declaration: arms and rewards are there. The arms of a bandit are all named, in the order of
    the endpoint's arms, also where the file leaves them out.
    """
    config = _read(endpoint) if endpoint.policy else None
    try:
        return checked(config, endpoint)
    except ValueError as exc:
        raise Misconfigured(f"endpoint {endpoint.endpoint}: {exc}") from exc


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
        return LearnedByFeatures(config, uniform(config.arms, arms), tuple(arms.index(arm) for arm in config.arms))
    return Learned(config.bandit, uniform(config.arms, arms))


def uniform(used: Collection[str], arms: Collection[str]) -> tuple[float, ...]:
    """Return equal weights for the arms that a policy uses, in the order of all of them, and 0 for the others."""
    return tuple(1.0 / len(used) if arm in used else 0.0 for arm in arms)


def stable_arms(config: CanaryConfig) -> tuple[str, ...]:
    """Return the arms that share what a canary leaves."""
    return (config.stable,) if isinstance(config.stable, str) else config.stable.arms


def ticks(value_s: float) -> int:
    """Return a duration in ticks of the learner's clock: whole seconds, and at least one."""
    return max(1, round(value_s))


def _read(endpoint: Endpoint) -> Config:
    source = f"endpoint {endpoint.endpoint}: policy"
    words = [word for word in POLICIES if word in endpoint.policy]
    if len(words) != 1:
        raise Misconfigured(f"{source}: {_no_single(words, endpoint.policy)}")
    try:
        kind = bandit_named(endpoint.policy["bandit"]) if words == ["bandit"] else POLICIES[words[0]]
    except ValueError as exc:
        raise Misconfigured(f"{source}: {exc}") from exc
    return read_model(kind, endpoint.policy, source=source)


def _no_single(words: list[str], found: Collection[str]) -> str:
    if words:
        return f"{' and '.join(words)} are policies of their own: keep one"
    near = next((near for word in found if (near := meant(word, POLICIES))), None)
    hint = f"did you mean {near!r}? " if near else ""
    return f"found {shown(', '.join(found))}; {hint}known policies: {', '.join(POLICIES)}"


def _interleaving(config: InterleaveConfig, arms: tuple[str, ...]) -> Interleaving:
    return Interleaving(
        arms=len(arms), rankers=tuple(sorted(arms.index(arm) for arm in config.interleave)), method=config.method,
        length=config.length, output=config.output, reward=config.credit, wait_s=config.wait, alpha=config.stop.alpha,
        max_ticks=None if config.stop.max is None else ticks(config.stop.max),
    )  # fmt: skip


def _canary(config: CanaryConfig, arms: tuple[str, ...]) -> Learned:
    share = config.steps[0]
    stable = uniform(stable_arms(config), arms)
    weights = [share if arm == config.canary else (1.0 - share) * stable[place] for place, arm in enumerate(arms)]
    return Learned("canary", tuple(weights), sticky=config.sticky)
