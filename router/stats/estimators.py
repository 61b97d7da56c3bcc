"""Estimates of another policy's mean reward, from logged decisions with propensities (Dudik, Langford and Li 2011).

Rows are (runs, decisions). `weight` is pi(arm) / propensity: the other policy's probability of the logged arm over the
logged one. Intervals are normal ones, 95 % at the default `z`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.stats.arrays import Bools, Floats

LEAST_ESS = 100.0
MEAN_WEIGHT = (0.9, 1.1)
Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimates (runs,) with their intervals.

    `ess`: effective sample size. `mean_weight` is 1 on average if the propensities are right. `refused`: fewer than 100
    effective decisions, or a mean weight outside [0.9, 1.1]; then `value`, `low` and
    `high` are not numbers, because unreliable ones would be used.
    """

    value: Floats
    low: Floats
    high: Floats
    ess: Floats
    mean_weight: Floats
    refused: Bools


def ips(reward: Floats, weight: Floats, z: float = Z) -> Estimate:
    """Inverse propensity scores: the mean of weight x reward. Unbiased."""
    return _estimated(weight * reward, weight, z)


def snips(reward: Floats, weight: Floats, z: float = Z) -> Estimate:
    """Self-normalised: divided by the mean weight; a little bias, less variance (Swaminathan and Joachims 2015)."""
    mean = np.maximum(weight.mean(axis=-1, keepdims=True), 1e-300)
    value = (weight * reward).mean(axis=-1, keepdims=True) / mean
    return _estimated(value + weight * (reward - value) / mean, weight, z)


def doubly_robust(reward: Floats, weight: Floats, predicted: Floats, expected: Floats, z: float = Z) -> Estimate:
    """Doubly robust: right if either the propensities or the predictions are.

    `predicted` is a model's reward for the logged arm, `expected` its mean over the other policy's arms; that model has
    not seen these decisions.
    """
    return _estimated(expected + weight * (reward - predicted), weight, z)


def _estimated(terms: Floats, weight: Floats, z: float) -> Estimate:
    """Return the mean of independent `terms` with a normal interval."""
    number = terms.shape[-1]
    value = terms.mean(axis=-1)
    half = z * terms.std(axis=-1, ddof=1) / np.sqrt(number)
    mean_weight = weight.mean(axis=-1)
    ess = weight.sum(axis=-1) ** 2 / np.maximum((weight * weight).sum(axis=-1), 1e-300)
    refused = ~((ess >= LEAST_ESS) & (mean_weight >= MEAN_WEIGHT[0]) & (mean_weight <= MEAN_WEIGHT[1]))
    shown = [np.where(refused, np.nan, number) for number in (value, value - half, value + half)]
    return Estimate(shown[0], shown[1], shown[2], ess, mean_weight, refused)
