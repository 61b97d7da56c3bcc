"""The interface of runtimes, and the checks of their outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from broker.errors import Failed, Misconfigured
from broker.protocol.answers import clean
from broker.tensor.datatypes import DTYPES, Array, datatype_of
from broker.tensor.inference import TensorSpec
from processors.config import ModelConfig

_MAX_TEXT: Final = 500


class Runtime(ABC):
    """A loaded version of a model. Its methods may block, and are called from one thread at a time."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> Runtime:
        """Return the version in `folder`, ready to infer.

        `device` is `cpu`, `cuda`, `cuda:N`, or `auto` for the first GPU if there is one. `threads` limits the threads
        of one computation. Raises `Misconfigured` for a problem that a person must solve.
        """

    @abstractmethod
    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """Return the outputs by name for writable inputs, batched along axis 0. May raise anything."""

    @abstractmethod
    def unload(self) -> None:
        """Release the memory of the model. No method is called after it."""

    def warm(self) -> None:
        """Compute zeros twice, so that the first request does not wait for one-time work. Raises `Failed`."""
        for _ in range(2):
            self.infer({spec.name: _zeros(spec) for spec in self.config.inputs})

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return exactly the declared outputs for checked inputs, row for row. Raises `Failed` and nothing else."""
        rows = len(next(iter(inputs.values()))) if self.config.max_batch_size else None
        try:
            return _checked(self.compute(inputs), self.config, rows)
        except Failed:
            raise
        except BaseException as exc:  # a model's code may raise anything, a CancelledError too: only its request fails
            raise Failed(f"model {self.config.name} failed: {described(exc)}") from exc


def described(exc: BaseException) -> str:
    """Return the type and the text of an error, cut to a limit: an error of a model can be pages long."""
    try:
        text = str(exc)
    except BaseException:  # noqa: BLE001 - the text of a model's own error may raise anything
        text = "its text cannot be read"
    line = clean(f"{type(exc).__name__}: {text}".strip())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def model_file(folder: Path, config: ModelConfig) -> Path:
    """Return the path of the model file. Raises `Misconfigured` if it is missing."""
    path = folder / config.file
    if not path.is_file():
        raise Misconfigured(f"{path} is missing: model {config.name} has nothing to load")
    return path


def _zeros(spec: TensorSpec) -> Array:
    shape = [1 if dimension < 0 else dimension for dimension in spec.shape]
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype=DTYPES[spec.datatype])


def _checked(outputs: Mapping[str, Array], config: ModelConfig, rows: int | None) -> dict[str, Array]:
    if not isinstance(outputs, Mapping):
        raise Failed(f"model {config.name} returned {type(outputs).__name__}: it must be a dict of output arrays")
    checked: dict[str, Array] = {}
    for spec in config.outputs:
        array = outputs.get(spec.name)
        if array is None:
            raise Failed(f"model {config.name} returned no output {spec.name}: it returned {_names(outputs)}")
        if fault := _fault(array, spec, rows):
            raise Failed(f"model {config.name}: output {spec.name} {fault}")
        # A copy, because a model may reuse its buffer for the next batch while this one is read.
        checked[spec.name] = np.array(array)
    if len(outputs) > len(checked):
        extra = {name: array for name, array in outputs.items() if name not in checked}
        raise Failed(f"model {config.name} returned {_names(extra)}: its config declares no such output")
    return checked


def _fault(array: Any, spec: TensorSpec, rows: int | None) -> str:
    """Describe the fault of an output; empty if it has none."""
    if not isinstance(array, np.ndarray):
        return f"is a {type(array).__name__}, and must be a NumPy array"
    if datatype_of(array.dtype) != spec.datatype:
        return f"is {array.dtype}, and its config declares {spec.datatype}: convert it in the model"
    shape = spec.shape if rows is None else (rows, *spec.shape[1:])
    same = zip(shape, array.shape, strict=False)
    if len(shape) != array.ndim or any(want not in (-1, have) for want, have in same):
        return f"has shape {list(array.shape)}, and must have {list(shape)} (-1 is any size)"
    return ""


def _names(outputs: Mapping[str, Array]) -> str:
    return ", ".join([str(name)[:100] for name in list(outputs)[:20]]) or "nothing"
