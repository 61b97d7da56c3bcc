"""States as JSON: dataclasses of arrays, written and read without loss, always the same bytes for the same state."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")


def packed(state: Any) -> Any:
    """Return a state as JSON; its floats are finite, and are read back bit for bit."""
    if isinstance(state, np.ndarray):
        return state.tolist()
    if is_dataclass(state):
        return {field.name: packed(getattr(state, field.name)) for field in fields(state)}
    if isinstance(state, tuple):
        return [packed(part) for part in state]
    return state


def unpacked(data: Any, like: _T) -> _T:
    """Return the state of the form `like` that `data` was packed from; raises ValueError for any other data."""
    try:
        found: _T = _unpacked(data, like)
    except (KeyError, TypeError, OverflowError) as exc:
        raise ValueError(f"this is no {type(like).__name__}: {exc}") from exc
    return found


def _unpacked(data: Any, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        array = np.asarray(data, like.dtype)
        if array.shape != like.shape:
            raise ValueError(f"an array {array.shape} where {like.shape} is expected")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("an array with something that is no finite number")
        return array
    if is_dataclass(like) and not isinstance(like, type):
        return type(like)(
            **{field.name: _unpacked(data[field.name], getattr(like, field.name)) for field in fields(like)}
        )
    if isinstance(like, tuple):
        if len(data) != len(like):
            raise ValueError(f"{len(data)} parts where {len(like)} are expected")
        return tuple(_unpacked(part, form) for part, form in zip(data, like, strict=True))
    return data
