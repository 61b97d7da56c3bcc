"""Compares the `exclusive` slices of two endpoints, each of which may be right alone."""

from __future__ import annotations

from broker.records.endpoint import Endpoint

_NOTHING = 1e-9  # 33.3% and 0.333 are not the same number


def overlap(one: Endpoint, other: Endpoint) -> str | None:
    """Return an error message if a key can be in the slices of both endpoints, else None."""
    mine, theirs = one.exclusive, other.exclusive
    if mine is None or theirs is None or mine.group != theirs.group:
        return None
    low, high = max(mine.slice[0], theirs.slice[0]), min(mine.slice[1], theirs.slice[1])
    if high - low <= _NOTHING:
        return None
    return (
        f"exclusive: endpoint {one.endpoint} has {_written(mine.slice)} of group {mine.group}, and endpoint "
        f"{other.endpoint} {_written(theirs.slice)}: {_written((low, high))} is in both, so they share keys: "
        "give each a slice of its own, or another group"
    )


def _written(part: tuple[float, float]) -> str:
    return f"[{100 * part[0]:.10g}%, {100 * part[1]:.10g}%]"
