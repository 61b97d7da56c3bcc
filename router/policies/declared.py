"""The policy that an endpoint declares, as routers draw from it."""

from __future__ import annotations

from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.policies.policy import Policy
from router.policies.split import Split


def read_policy(endpoint: Endpoint) -> Policy:
    """Return the policy that an endpoint declares; without one the endpoint has a single arm. Raises Misconfigured.

    A policy that learns begins with the weights of snapshot 0.
    """
    config = read_config(endpoint)
    return Split((1.0,)) if config is None else config.policy(endpoint)
