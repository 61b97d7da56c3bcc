"""Rankers for tests: models that return the same ranking for every request."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from broker.tensor.datatypes import Array
from tests.arms import Compute

FIRST, SECOND = ["a", "b", "c", "d"], ["x", "b", "y", "z"]


def ranking(*items: str) -> Compute:
    """A model that always returns the same ranking."""

    def compute(inputs: dict[str, Array]) -> dict[str, Array]:
        return {"items": np.array([[item.encode() for item in items]] * len(inputs["x"]), dtype=object)}

    return compute


def raising(error: Exception) -> Compute:
    """A model that always raises an error."""

    def compute(_: dict[str, Array]) -> dict[str, Array]:
        raise error

    return compute


class Slow:
    """A ranker that waits for the event `go` before it answers; `asked` is set when it has a request."""

    def __init__(self, *items: str) -> None:
        self.go = threading.Event()
        self.asked = threading.Event()
        self._compute = ranking(*items)

    def __call__(self, inputs: dict[str, Array]) -> Any:
        self.asked.set()
        self.go.wait(10.0)
        return self._compute(inputs)
