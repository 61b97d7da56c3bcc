"""The experiment that an endpoint declares."""

from __future__ import annotations

from typing import Any

from broker.records.endpoint import Endpoint
from router.declaration.policy import read_config
from router.learning.experiment import Experiment


def read_experiment(endpoint: Endpoint) -> Experiment[Any] | None:
    """Return the experiment of an endpoint's policy; None for a policy that does not learn. Raises Misconfigured.

    Numerical libraries are imported only for a policy that learns.
    """
    config = read_config(endpoint)
    return None if config is None else config.experiment(endpoint)
