"""The traffic of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
