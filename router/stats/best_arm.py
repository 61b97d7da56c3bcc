"""The probability that each arm is the best one, for independent values of the arms.

P(k is the best) is the integral of the product of the others' distribution functions over k's own. It is summed by the
trapezoid rule over the quantiles of all arms together, so that a narrow arm is resolved as well as a broad one: Gauss
and Gauss-Hermite rules over one arm's own quantiles are off by up to 1e-2 when the widths are very unequal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan, copysign, erfc, pi, sqrt

import numpy as np
from scipy.special import betainc, betaincinv, ndtr, stdtr
from scipy.special.cython_special import owens_t

from router.stats.arrays import Floats

FEW = 3  # normals have a closed form up to here

_Z = np.linspace(-4.5, 4.5, 71)  # a spacing of 0.13: the tests hold the probabilities to 5e-4
_LEVELS = ndtr(_Z)
_SQRT_HALF = sqrt(0.5)
_T_SPREAD = np.sinh(np.linspace(-4.0, 4.0, 71))


def best_of_betas(successes: Floats, failures: Floats) -> Floats:
    """Return P(arm is the best) (runs, arms) for Beta(successes, failures) values, both (runs, arms)."""
    nodes = _all_nodes(betaincinv(successes[..., None], failures[..., None], _LEVELS))
    return _integrated(betainc(successes[..., None], failures[..., None], nodes[:, None, :]))


def best_of_normals(mean: Floats, deviation: Floats) -> Floats:
    """Return P(arm is the best) (runs, arms) for normal values; deviations are above 0."""
    mean, deviation = mean[..., None], deviation[..., None]
    nodes = _all_nodes(mean + deviation * _Z)
    return _integrated(ndtr((nodes[:, None, :] - mean) / deviation))


def best_of_few_normals(arm: int, mean: Sequence[float], variance: Sequence[float]) -> float:
    """Return P(`arm` is the best) of two or three arms exactly, in less than a microsecond; variances are above 0.

    Of two it is a normal distribution's value; of three P(X > Y and X > Z) is a bivariate one's, by Owen's T function
    (Owen 1956, Tables for computing bivariate normal probabilities).
    """
    x, y, over_y = variance[arm], variance[arm - 1], mean[arm] - mean[arm - 1]
    h = over_y / sqrt(x + y)
    if len(mean) == 2:
        return 0.5 * erfc(-h * _SQRT_HALF)
    z, over_z = variance[arm - 2], mean[arm] - mean[arm - 2]
    k = over_z / sqrt(x + z)
    rest = sqrt(x * (y + z) + y * z)  # sqrt((x + y) (x + z) - x^2), computed without cancellation, as the terms below
    if h and k:
        apart = mean[arm - 1] - mean[arm - 2]
        beyond = owens_t(h, (over_z / over_y * y + apart / over_y * x) / rest)
        beyond += owens_t(k, (over_y / over_z * z - apart / over_z * x) / rest)
    else:
        beyond = _on_an_axis(h, k, -x / rest, rest / (sqrt((x + y) * (x + z)) + x))
    both: float = 0.25 * (erfc(-h * _SQRT_HALF) + erfc(-k * _SQRT_HALF)) - beyond
    if (h < 0.0) != (k < 0.0):
        both -= 0.5
    return both if 0.0 <= both <= 1.0 else float(both > 0.5)


def best_of_students(mean: Floats, scale: Floats, freedom: Floats) -> Floats:
    """Return P(arm is the best) (runs, arms) for Student's t with a location, a scale and degrees of freedom."""
    mean, scale = mean[..., None], scale[..., None]
    nodes = _all_nodes(mean + scale * _T_SPREAD)
    return _integrated(stdtr(freedom[..., None], (nodes[:, None, :] - mean) / scale))


def _on_an_axis(h: float, k: float, slope: float, both: float) -> float:
    """Return the sum of both T where h or k is 0: T(0, a) is atan(a) / 2 pi, and a is infinite unless both are 0."""
    if h == k:
        return atan(both) / pi
    off: float = h or k
    found: float = owens_t(off, slope)
    return found + copysign(0.25, off)


def _all_nodes(own: Floats) -> Floats:
    """Return every arm's nodes (runs, arms, nodes) as one ascending row a run."""
    return np.sort(own.reshape(own.shape[0], -1), axis=-1)


def _integrated(cdf: Floats) -> Floats:
    """Return the probabilities from distribution functions (runs, arms, nodes) at common ascending nodes."""
    runs, arms, _ = cdf.shape
    ends = np.zeros((runs, arms, 1))
    cdf = np.concatenate([ends, cdf, ends + 1.0], axis=-1)
    before, after = np.ones_like(cdf), np.ones_like(cdf)
    for arm in range(1, arms):
        before[:, arm] = before[:, arm - 1] * cdf[:, arm - 1]
        after[:, arms - 1 - arm] = after[:, arms - arm] * cdf[:, arms - arm]
    others = before * after
    slices = np.diff(cdf, axis=-1) * (others[..., 1:] + others[..., :-1])
    shares: Floats = np.ascontiguousarray(slices).sum(axis=-1)
    total = shares[:, 0].copy()
    for arm in range(1, arms):
        total += shares[:, arm]
    return shares / total[:, None]
