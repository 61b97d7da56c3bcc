"""The models of linear bandits: one ridge regression an arm."""

from __future__ import annotations

from dataclasses import dataclass

from router.stats.arrays import Floats

LEAST_DEVIATION = 1e-9  # of a prediction, where a sample is drawn from it


@dataclass(frozen=True, slots=True)
class LinearModels:
    """Ridge regressions: `root` (runs, arms, dimensions, dimensions), `rewarded` (runs, arms, dimensions).

    root root' is the inverse of ridge I + sum x x', `rewarded` the sum of reward x.
    """

    root: Floats
    rewarded: Floats
