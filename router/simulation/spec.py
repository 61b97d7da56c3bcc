"""The traffic of a simulation, and the simulation of a declared policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.evidence.sections import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSpec:
    """`rate` is in requests a second, `for_s` the simulated time in seconds (0: a time that suits the policy).

    `means`, `failures` and `noise` are figures by arm, for the kinds of policies that need them.
    """

    rate: float
    for_s: float
    runs: int
    seed: int
    means: Mapping[str, float]
    failures: Mapping[str, float]
    noise: Mapping[str, float]


def simulated(endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
    """Return the report of a simulation of an endpoint's policy.

    Raises Misconfigured if it cannot be simulated, or if a figure of an arm is missing.
    """
    config = read_config(endpoint)
    if config is None:
        raise Misconfigured(f"endpoint {endpoint.endpoint}: its policy learns nothing: there is nothing to simulate")
    return config.simulated(endpoint, spec)
