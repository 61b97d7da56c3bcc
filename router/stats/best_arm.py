"""How probable it is that each arm is the best one, when the arms' values are independent.

P(k is the best) is the integral of the product of the others' distribution functions over k's own. It is summed by the
trapezoid rule over the quantiles of all arms together, so that a narrow arm is resolved as well as a broad one: Gauss
and Gauss-Hermite rules over one arm's own quantiles are off by up to 1e-2 when the widths are very unequal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan, copysign, erfc, hypot, pi, sqrt

import numpy as np
from scipy.special import betainc, betaincinv, ndtr, stdtr
from scipy.special.cython_special import owens_t

from router.stats.arrays import Floats

FEW = 3  # normals have a closed form up to here

_Z = np.linspace(-4.5, 4.5, 71)  # a spacing of 0.13: the tests hold the probabilities to 5e-4
_LEVELS = ndtr(_Z)
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


def best_of_few_normals(mean: Sequence[float], deviation: Sequence[float]) -> list[float]:
    """Return P(arm is the best) of at most `FEW` arms exactly, in two microseconds; deviations are above 0.

    Of two it is a normal distribution's value; of three P(X > Y and X > Z) is a bivariate one's, by Owen's T function
    (Owen 1956, Tables for computing bivariate normal probabilities).
    """
    if len(mean) == 1:
        return [1.0]
    if len(mean) == 2:
        first = _normal((mean[0] - mean[1]) / hypot(*deviation))
        return [first, 1.0 - first]
    (a, b, c), (s, t, u) = mean, deviation
    first = _above_both(a - b, a - c, s, t, u)
    second = _above_both(b - a, b - c, t, s, u)
    return [first, second, max(1.0 - first - second, 0.0)]


def best_of_students(mean: Floats, scale: Floats, freedom: Floats) -> Floats:
    """Return P(arm is the best) (runs, arms) for Student's t with a location, a scale and degrees of freedom."""
    mean, scale = mean[..., None], scale[..., None]
    nodes = _all_nodes(mean + scale * _T_SPREAD)
    return _integrated(stdtr(freedom[..., None], (nodes[:, None, :] - mean) / scale))


def _above_both(over_y: float, over_z: float, x: float, y: float, z: float) -> float:
    """Return P(X > Y and X > Z) from X's lead in the mean over each and the three deviations."""
    from_y, from_z = hypot(x, y), hypot(x, z)
    h, k, correlation = over_y / from_y, over_z / from_z, x * x / (from_y * from_z)
    rest = hypot(x * y, x * z, y * z) / (from_y * from_z)  # sqrt(1 - correlation^2), but not by a difference
    both = 0.5 * (_normal(h) + _normal(k)) - _owen(h, k, correlation, rest) - _owen(k, h, correlation, rest)
    return min(max(both - 0.5 if (h < 0.0) != (k < 0.0) else both, 0.0), 1.0)


def _owen(h: float, k: float, correlation: float, rest: float) -> float:
    """Return T(h, (k/h - correlation)/rest); at h = 0 the slope is infinite, where k is 0, too, k/h is 1."""
    if h == 0.0:
        return copysign(0.25, k) if k else atan((1.0 - correlation) / rest) / (2.0 * pi)
    value: float = owens_t(h, (k / h - correlation) / rest)
    return value


def _normal(z: float) -> float:
    return 0.5 * erfc(-z * sqrt(0.5))


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
