"""The supported datatypes of the Open Inference Protocol, and their NumPy types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""BYTES is an object array of `bytes`. BF16 is not supported: NumPy has no such type."""

DATATYPES: Final[Mapping[str, str]] = {dtype.str: name for name, dtype in DTYPES.items()}

FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """Return the protocol's name of a NumPy type; None if it has none."""
    known = DATATYPES.get(dtype.str)
    if known is None and dtype.kind in "SU":
        return "BYTES"
    return known or DATATYPES.get(dtype.newbyteorder("<").str)
