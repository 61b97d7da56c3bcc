"""`ucb`: the arm that could be the best, by an upper confidence bound on its mean.

It is deterministic between snapshots: without a floor its propensities are 1, and its log allows no estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import rel_entr

from router.policies.counts import Counting, Sums, means
from router.stats.arrays import ONE, Floats, argmax_shares

_STEPS = 12  # Newton's steps; the tests hold the bound to 1e-9
_NEAREST_ONE = 1.0 - 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Ucb(Counting):
    """KL-UCB, or UCB1. An arm without a reward comes first; arms with the same bound share."""

    kind: Literal["kl", "ucb1"] = "kl"

    @property
    def name(self) -> str:
        return "ucb"

    def shares(self, state: Sums) -> Floats:
        return argmax_shares(self.bounds(state))

    def bounds(self, state: Sums) -> Floats:
        """Return the upper confidence bounds (runs, arms), infinite for arms without a reward."""
        pulls = state.pulls / ONE
        known = pulls > 0
        total = np.maximum(pulls.sum(axis=-1, keepdims=True), 1.0)
        budget = np.log(total) / np.where(known, pulls, 1.0)
        mean = means(state, unseen=0.0)
        bound = kl_bound(mean, budget) if self.kind == "kl" else mean + np.sqrt(2.0 * budget)
        return np.where(known, bound, math.inf)


def kl_bound(mean: Floats, budget: Floats) -> Floats:
    """Return the greatest q with kl(mean, q) <= budget, for Bernoulli means (Garivier and Cappé 2011, with c = 0).

    kl is convex in q above the mean: Newton's method from above never crosses the root. It starts at the least of
    three bounds on it: Pinsker's, kl >= (1 - p) ln((1 - p) / (1 - q)) + p ln p solved for q, and 1.
    """
    pinsker = mean + np.sqrt(budget / 2.0)
    entropy = rel_entr(mean, 1.0) + rel_entr(1.0 - mean, 1.0)
    exponent = np.minimum((entropy - budget) / np.maximum(1.0 - mean, 1e-12), 0.0)
    upper = np.minimum(np.minimum(pinsker, 1.0 - np.exp(exponent)), _NEAREST_ONE)
    upper = np.maximum(upper, mean)
    for _ in range(_STEPS):
        above = rel_entr(mean, upper) + rel_entr(1.0 - mean, 1.0 - upper) - budget
        slope = (upper - mean) / (upper * (1.0 - upper) + 1e-300)
        step = np.where(slope > 0, above / np.where(slope > 0, slope, 1.0), 0.0)
        upper = np.minimum(np.maximum(upper - np.maximum(step, 0.0), mean), _NEAREST_ONE)
    return np.where(mean >= 1.0, 1.0, upper)
