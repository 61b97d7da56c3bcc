"""Prediction rows as decisions: one decision a request, for any number of instances in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from router.drawing.feature_vectors import LARGEST

COLUMNS = (
    "uid",
    "leg",
    "row",
    "arm",
    "policy",
    "snapshot",
    "mask",
    "propensity",
    "accepted_us",
    "published_us",
    "status",
    "key",
)
CONTEXT = "context"


@dataclass(slots=True)
class Decision:
    """The decision for a request, and its outcome. `predicted` has one value a row, if scores need the outputs."""

    uid: bytes
    arm: str
    policy: str
    snapshot: int
    mask: int
    propensity: float
    accepted_us: int
    published_us: int
    status: str
    key: str
    features: list[float] | None = None
    predicted: list[Any] | None = None

    @property
    def latency_us(self) -> int:
        """Microseconds from the acceptance of the request to its answer."""
        return max(0, self.published_us - self.accepted_us)


def decisions_in(rows: Any, *, scored: str = "", output: str = "") -> Iterator[Decision]:
    """Yield the decisions of an event's rows (an Arrow record batch), without legs that do not answer.

    `scored` is the rule by which predictions are compared with labels later (see `joins.score`), empty for none.
    `output` names the output to read; empty for a model's only one.
    """
    columns = [rows.column(name).to_pylist() for name in COLUMNS]
    predicted = predictions(rows, scored, output) if scored else None
    context = rows.column(CONTEXT).to_pylist() if CONTEXT in rows.schema.names else None
    current: Decision | None = None
    for place, (uid, leg, row, arm, policy, snapshot, mask, propensity, accepted, published, status, key) in enumerate(
        zip(*columns, strict=True)
    ):
        if leg:
            continue
        if row == 0 or current is None or current.uid != uid:
            if current is not None:
                yield current
            current = Decision(
                uid, arm or "", policy or "", snapshot, mask, propensity, accepted, published, status, key or ""
            )
            if context is not None and context[place]:
                current.features = features_of(context[place])
        if predicted is not None and status == "ok":
            current.predicted = [*(current.predicted or ()), predicted[place]]
    if current is not None:
        yield current


def predictions(rows: Any, scored: str, output: str) -> Sequence[Any] | None:
    """Return one value a row: the position of the largest number for `argmax`, else the value itself.

    Returns None if the output is missing or has another form.
    """
    names = [name for name in rows.schema.names if name.startswith("output.")]
    name = f"output.{output}" if output else names[0] if len(names) == 1 else ""
    if name not in names:
        return None
    column = rows.column(name)
    if scored != "argmax":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in column.to_pylist()]
    try:
        numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return [int(place) for place in np.argmax(numbers, axis=1)]
    except (AttributeError, TypeError, ValueError):  # scalars, texts, or rows of different lengths
        return None


def features_of(context: str) -> list[float] | None:
    """Return the feature vector of a decision; None for a text that no router writes."""
    try:
        found = orjson.loads(context)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, list) or not all(type(one) in (int, float) and abs(one) <= LARGEST for one in found):
        return None
    return [float(one) for one in found]
