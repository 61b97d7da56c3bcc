"""The simulation of a declared policy."""

from __future__ import annotations

from broker.errors import Misconfigured
from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.evidence.sections import Section
from router.simulation.spec import SimulationSpec


def simulated(endpoint: Endpoint, spec: SimulationSpec) -> list[Section]:
    """Return the report of a simulation of an endpoint's policy.

    Raises Misconfigured if it cannot be simulated, or if a figure of an arm is missing.
    """
    config = read_config(endpoint)
    if config is None:
        raise Misconfigured(f"endpoint {endpoint.endpoint}: its policy learns nothing: there is nothing to simulate")
    return config.simulated(endpoint, spec)
