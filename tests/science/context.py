"""Contextual policies learn to classify digits from rewards alone: scikit-learn's 1,797 images of 64 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from router.policies.learning import Contextual
from router.policies.linear import LinThompson, LinUcb
from router.simulation.environments import accuracies
from tests.science.gates import Row, mean_and_error


def digits() -> Iterator[Row]:
    """Require a share of right answers of .80, including those while learning, over five orders of the digits."""
    data: Any = load_digits()
    features, labels = np.asarray(data.data, np.float64) / 16.0, np.asarray(data.target, np.int64)
    policies: tuple[tuple[str, Contextual[Any], str], ...] = (
        ("LinUCB .5", LinUcb(arms=10, dimensions=64, floor=0.0, alpha=0.5), ".836"),
        ("linear Thompson .1", LinThompson(arms=10, dimensions=64, floor=0.0, scale=0.1), ".840"),
    )
    for name, policy, known in policies:
        mean, error = mean_and_error(accuracies(policy, features, labels, 5, 1))
        yield Row(f"digits: {name}", f"{mean:.3f} +- {error:.3f}", known, ">= .80", mean >= 0.80)
