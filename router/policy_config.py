"""The `policy` of an endpoint's declaration, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from broker.endpoint import Declared, Endpoint, read_model
from broker.errors import Misconfigured
from router.policies.base import Policy
from router.policies.split import Split

KNOWN = ("split",)


class _SplitConfig(Declared):
    split: dict[str, float] | list[str]
    sticky: bool = False


def read_policy(endpoint: Endpoint) -> Policy:
    """Return the policy that an endpoint declares; no policy with one arm means that arm. Raises Misconfigured."""
    source = f"endpoint {endpoint.endpoint}: policy"
    if not endpoint.policy:
        return Split((1.0,))
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
