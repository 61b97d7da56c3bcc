"""Rows of measurements, with known results and gates that fail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `known` was published or measured elsewhere, and an empty `gate` never fails."""

    what: str
    ours: str
    known: str
    gate: str = ""
    passed: bool = True


def mean_and_error(values: Floats) -> tuple[float, float]:
    """The mean over runs and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def near(what: str, values: Floats, known: float, share: float = 0.1) -> Row:
    """Require a mean within `share` of `known` plus 3 of our standard errors (0.3 % of correct means fail)."""
    mean, error = mean_and_error(values)
    passed = abs(mean - known) <= share * known + 3 * error
    return Row(what, _shown(mean, error), f"{known:g}", f"within {share:.0%} + 3 se", passed)


def at_most(what: str, values: Floats, limit: float, known: str, gate: str) -> Row:
    """Require a mean of at most `limit` plus 3 of our standard errors."""
    mean, error = mean_and_error(values)
    return Row(what, _shown(mean, error), known, gate, mean <= limit + 3 * error)


def rate(what: str, happened: Floats, alpha: float | None, known: str) -> Row:
    """Require a share of runs of at most `alpha` plus 3 of its standard errors; without `alpha` only show it."""
    share = float(happened.mean())
    if alpha is None:
        return Row(what, f"{share:.3f}", known)
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / len(happened))
    return Row(what, f"{share:.3f}", known, f"<= {alpha:g} + 3 se = {limit:.3f}", share <= limit)


def median(what: str, numbers: Floats, limit: float | None, known: str) -> Row:
    """Require a median of at most `limit`; without a limit only show it."""
    middle = float(np.median(numbers)) if len(numbers) else math.nan
    if limit is None:
        return Row(what, f"{middle:g}", known)
    return Row(what, f"{middle:g}", known, f"<= {limit:g}", middle <= limit)


def _shown(mean: float, error: float) -> str:
    return f"{mean:.4g} +- {error:.2g}"
