"""The `policy` of an endpoint's declaration: read by the class of its kind, and checked against the endpoint."""

from __future__ import annotations

from collections.abc import Collection

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from broker.support.strict import meant, read_model, shown
from router.declaration.checks import check_endpoint
from router.declaration.kind import PolicyConfig
from router.declaration.registry import POLICIES


def read_config(endpoint: Endpoint) -> PolicyConfig | None:
    """Return the configuration of an endpoint's policy; None for an endpoint with one arm and no policy.

    It fits the rest of the declaration: its arms and rewards exist. Raises Misconfigured.
    """
    config = _read(endpoint) if endpoint.policy else None
    try:
        check_endpoint(endpoint)
        return None if config is None else config.fitted(endpoint)
    except ValueError as exc:
        raise Misconfigured(f"endpoint {endpoint.endpoint}: {exc}") from exc


def uniform(used: Collection[str], arms: Collection[str]) -> tuple[float, ...]:
    """Return equal weights for the arms in `used`, in the order of `arms`, and 0 for the others."""
    return tuple(1.0 / len(used) if arm in used else 0.0 for arm in arms)


def ticks(value_s: float) -> int:
    """Return a duration in ticks of the learner's clock: whole seconds, and at least one."""
    return max(1, round(value_s))


def _read(endpoint: Endpoint) -> PolicyConfig:
    source = f"endpoint {endpoint.endpoint}: policy"
    names = [name for name in POLICIES if name in endpoint.policy]
    if len(names) != 1:
        raise Misconfigured(f"{source}: {_no_single(names, endpoint.policy)}")
    try:
        model = POLICIES[names[0]].model_of(endpoint.policy)
    except ValueError as exc:
        raise Misconfigured(f"{source}: {exc}") from exc
    return read_model(model, endpoint.policy, source=source)


def _no_single(names: list[str], found: Collection[str]) -> str:
    if names:
        return f"{' and '.join(names)} are policies of their own: keep one"
    near = next((near for word in found if (near := meant(word, POLICIES))), None)
    hint = f"did you mean {near!r}? " if near else ""
    return f"found {shown(', '.join(found))}; {hint}known policies: {', '.join(POLICIES)}"
