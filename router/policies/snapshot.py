"""A snapshot: the probabilities that decisions are drawn from until the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightSnapshot:
    """Weights of the arms, in the order of their declaration; they need not sum to one.

    `models` is the JSON from which a policy with features computes the weights for one request; else None.
    """

    number: int
    weights: tuple[float, ...]
    models: Any = field(default=None, compare=False)


def masked(weights: Sequence[float], mask: int) -> list[float]:
    """Return probabilities over the arms whose bit is set in `mask`.

    A mask without any weight is ignored: a request may wait in a queue for an arm that is away, but it must go
    somewhere.
    """
    kept = weights
    if mask != (1 << len(weights)) - 1:
        kept = [weight if mask >> arm & 1 else 0.0 for arm, weight in enumerate(weights)]
    total = sum(kept)
    if total <= 0.0:
        kept, total = weights, sum(weights)
    return [weight / total for weight in kept]
