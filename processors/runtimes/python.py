'''Models that are a class in a Python file.

    class Model:
        def __init__(self, config: dict) -> None:       # or without config; the config as JSON, Triton's field names
            ...

        def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            """Return every declared output for the declared inputs, batched along axis 0, row for row."""

        def load(self, folder: pathlib.Path) -> None: ...    # optional: the version's folder, for files of its own
        def warm(self) -> None: ...                          # optional: before the first request
        def unload(self) -> None: ...                        # optional: once, at the end

The folder of a version is an import root of its own (`import helper`, `from .helper import x`), so two versions never
share a module. The code runs with the rights of the process: only people who may run code here may write to the
repository.
'''

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping
from copy import deepcopy
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from broker.errors import Failed, Misconfigured
from broker.tensor.datatypes import Array
from processors.config import ModelConfig
from processors.runtimes.base import Runtime, described, model_file
from processors.runtimes.imports import ImportRoot

_numbers: Final = count(1)


class PythonRuntime(Runtime):
    """One instance of a file's `Model`."""

    def __init__(self, config: ModelConfig, model: Any, root: ImportRoot) -> None:
        super().__init__(config)
        self._model = model
        self._root = root

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> PythonRuntime:
        """Return an instance of the class `Model` in the model file; the class itself handles devices and threads."""
        path = model_file(folder, config)
        root = ImportRoot(f"millrace_model_{config.name.replace('-', '_')}_{next(_numbers)}", folder)
        try:
            module = root.load(path)
            _bound_forks()
            model = _created(module, config)
            if hasattr(model, "load"):
                model.load(folder)
        except BaseException as exc:
            root.close()
            raise exc if isinstance(exc, Misconfigured) else _broken(path, exc) from exc
        return cls(config, model, root)

    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        outputs: Mapping[str, Array] = self._model.infer(inputs)
        return outputs

    def warm(self) -> None:
        """Call the model's `warm`, if it has one. Zeros as inputs, as by default, could have side effects."""
        if hasattr(self._model, "warm"):
            self._call("warm")

    def unload(self) -> None:
        """Call the model's `unload`, if it has one, and remove its modules."""
        try:
            if hasattr(self._model, "unload"):
                self._call("unload")
        finally:
            self._model = None
            self._root.close()

    def _call(self, name: str) -> None:
        try:
            getattr(self._model, name)()
        except BaseException as exc:
            raise Failed(f"model {self.config.name} failed in {name}: {described(exc)}") from exc


def _bound_forks() -> None:
    """Limit torch's `fork` to one thread, if the model imported torch: no environment variable limits that pool."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_interop_threads() != 1:
        with contextlib.suppress(RuntimeError):  # the pool is already in use
            torch.set_num_interop_threads(1)


def _created(module: ModuleType, config: ModelConfig) -> Any:
    kind = getattr(module, "Model", None)
    if not isinstance(kind, type) or not callable(getattr(kind, "infer", None)):
        raise Misconfigured(f"{module.__file__} must define a class Model with a method infer(self, inputs)")
    if inspect.signature(kind).parameters:
        return kind(deepcopy(dict(config.json)))
    return kind()


def _broken(path: Path, exc: BaseException) -> Misconfigured:
    return Misconfigured(f"{path} does not load: {described(exc)}")
