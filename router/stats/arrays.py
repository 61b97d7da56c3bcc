"""Arrays with a leading axis of runs, and sums that do not depend on the order.

The learner calls all functions with one run; simulations call them with thousands. Sums are integers in units of
1/ONE, so that the state has the same bytes for any order of events.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ONE = 1 << 20


def fixed(values: Floats) -> Floats:
    """Return `values` in units of 1/ONE, rounded; still floats, exact up to 2**53 units."""
    rounded: Floats = np.rint(values * ONE)
    return rounded


def tallied(cells: Ints, amounts: Floats | None, shape: tuple[int, ...]) -> Ints:
    """Return how much each cell of an array of `shape` gets; `cells` are flat indices, no amounts are ones."""
    size = int(np.prod(shape))
    return np.bincount(cells, weights=amounts, minlength=size).astype(np.int64).reshape(shape)


def rounds(run: Ints) -> Iterator[Ints]:
    """Yield the places of each run's first event, of each run's second, and so on.

    A fold that depends on the order of a run's events handles one round at a time, for all runs at once.
    """
    order = np.argsort(run, kind="stable")
    ordered = run[order]
    turn = np.arange(len(run)) - np.searchsorted(ordered, ordered)
    for number in range(int(turn.max(initial=-1)) + 1):
        yield order[turn == number]


def argmax_shares(scores: Floats) -> Floats:
    """Return (runs, arms) probabilities: all on the arm with the highest score, in equal parts if several have it."""
    best = scores == scores.max(axis=-1, keepdims=True)
    shares: Floats = best / best.sum(axis=-1, keepdims=True)
    return shares


def log_mean_exp(logarithms: Floats) -> Floats:
    """Return ln(mean(exp(x))) over the last axis, without overflow."""
    top = logarithms.max(axis=-1, keepdims=True)
    mean: Floats = top[..., 0] + np.log(np.exp(logarithms - top).mean(axis=-1))
    return mean


def choose(probabilities: Floats, uniform: Floats) -> Ints:
    """Return the arms (runs, draws) that numbers in [0, 1) of that shape draw from (runs, arms) probabilities."""
    sums = np.cumsum(probabilities, axis=-1)
    sums /= sums[:, -1:]
    arms: Ints = (sums[:, None, :-1] <= uniform[:, :, None]).sum(axis=-1)
    return arms
