"""The `policy` of an endpoint's declaration: read, and checked against the rest of it.

`router/policies/read_policy.py` builds the policy that routers draw from, and `router/policies/build.py` the learner's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from broker.support.strict import meant, read_model, shown
from router.declaration.bandit import BanditConfig, bandit_named
from router.declaration.canary import CanaryConfig
from router.declaration.checks import checked
from router.declaration.plain import InterleaveConfig, ShadowConfig, SplitConfig

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
