"""The `policy` of an endpoint's declaration, read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from broker.endpoint import Declared, Duration, Endpoint, Fraction, read_model
from broker.errors import Misconfigured
from router.interleaving.interleave import check_method
from router.policies.base import Policy
from router.policies.interleaving import Interleaving
from router.policies.shadow import Shadow
from router.policies.split import Split

KNOWN = ("split", "shadow", "interleave")


class _SplitConfig(Declared):
    split: dict[str, float] | list[str]
    sticky: bool = False


def read_policy(endpoint: Endpoint) -> Policy:
    """Return the policy that an endpoint declares; no policy with one arm means that arm. Raises Misconfigured."""
    source = f"endpoint {endpoint.endpoint}: policy"
    if not endpoint.policy:
        return Split((1.0,))
    if reader := next((_COMPANIONS[name] for name in _COMPANIONS if name in endpoint.policy), None):
        return reader(endpoint, source)
    if "split" not in endpoint.policy:
        found = ", ".join(map(str, endpoint.policy)) or "nothing"
        raise Misconfigured(f"{source}: found {found}; known policies: {', '.join(KNOWN)}")
    return _split(endpoint, read_model(_SplitConfig, endpoint.policy, source=source), source)


def _split(endpoint: Endpoint, config: _SplitConfig, source: str) -> Split:
    shares: Mapping[str, Any] = config.split if isinstance(config.split, dict) else dict.fromkeys(config.split, 1.0)
    for arm, weight in shares.items():
        if arm not in endpoint.arms:
            raise Misconfigured(f"{source}.split: {arm!r} is not an arm; declared arms: {', '.join(endpoint.arms)}")
        if not math.isfinite(weight) or weight < 0:
            raise Misconfigured(f"{source}.split.{arm}: {weight!r} is not a weight: a number of at least 0 is expected")
    weights = tuple(float(shares.get(arm, 0.0)) for arm in endpoint.arms)
    if not sum(weights) > 0:
        raise Misconfigured(f"{source}.split: the weights sum to 0; give at least one arm some")
    return Split(weights, sticky=config.sticky)


class _ShadowConfig(Declared):
    shadow: str
    serve: str
    sample: Fraction = 1.0
    compare: str = ""


class _InterleaveConfig(Declared):
    interleave: list[str]
    method: str = "team_draft"
    length: int = 10
    output: str = ""
    wait: Duration = 1.0
    credit: str = ""


def _shadow(endpoint: Endpoint, source: str) -> Policy:
    config = read_model(_ShadowConfig, endpoint.policy, source=source)
    serve, shadow = _place(endpoint, config.serve, source), _place(endpoint, config.shadow, source)
    return Shadow(len(endpoint.arms), serve, shadow, config.sample, config.compare)


def _interleave(endpoint: Endpoint, source: str) -> Policy:
    config = read_model(_InterleaveConfig, endpoint.policy, source=source)
    try:
        check_method(config.method, len(config.interleave), config.length)
    except ValueError as exc:
        raise Misconfigured(f"{source}: {exc}") from exc
    return Interleaving(
        arms=len(endpoint.arms), rankers=tuple(_place(endpoint, arm, source) for arm in config.interleave),
        method=config.method, length=config.length, output=config.output, wait_s=config.wait, reward=config.credit,
    )  # fmt: skip


def _place(endpoint: Endpoint, arm: str, source: str) -> int:
    if arm not in endpoint.arms:
        raise Misconfigured(f"{source}: {arm!r} is not an arm; declared arms: {', '.join(endpoint.arms)}")
    return list(endpoint.arms).index(arm)


_COMPANIONS: Mapping[str, Callable[[Endpoint, str], Policy]] = {"shadow": _shadow, "interleave": _interleave}
