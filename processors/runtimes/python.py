'''Models that are a Python file: anything that can be written as a class.

    class Model:
        def __init__(self, config: dict) -> None:       # or without config; the config as JSON, Triton's field names
            ...

        def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            """Return every declared output for the declared inputs, batched along axis 0, row for row."""

        def load(self, folder: pathlib.Path) -> None: ...    # optional: the version's folder, for files of its own
        def warm(self) -> None: ...                          # optional: before the first request
        def unload(self) -> None: ...                        # optional: once, at the end

The file is imported under a name of its own, so that two versions never share state. Its code runs with the
process's rights: only those who may run code here may write to the repository.
'''

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from copy import deepcopy
from importlib.machinery import SourceFileLoader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from broker.datatypes import Array
from broker.errors import Failed, Misconfigured
from processors.config import ModelConfig
from processors.runtimes.base import Runtime, described, model_file

_numbers: Final = count(1)


class PythonRuntime(Runtime):
    """One instance of a file's `Model`."""

    def __init__(self, config: ModelConfig, model: Any, module: ModuleType) -> None:
        super().__init__(config)
        self._model = model
        self._module = module.__name__

    @classmethod
    def load(cls, folder: Path, config: ModelConfig, *, device: str, threads: int) -> PythonRuntime:
        """Return an instance of the class `Model` in the version's file, which sees to devices and threads itself."""
        path = model_file(folder, config)
        module = _imported(path, f"millrace_model_{config.name.replace('-', '_')}_{next(_numbers)}")
        try:
            model = _created(module, config)
            if hasattr(model, "load"):
                model.load(folder)
        except BaseException as exc:
            sys.modules.pop(module.__name__, None)
            raise exc if isinstance(exc, Misconfigured) else _broken(path, exc) from exc
        return cls(config, model, module)

    def compute(self, inputs: dict[str, Array]) -> Mapping[str, Array]:
        """Call the model's `infer`."""
        outputs: Mapping[str, Array] = self._model.infer(inputs)
        return outputs

    def warm(self) -> None:
        """Call the model's `warm`, if it has one: made-up inputs could have effects."""
        if hasattr(self._model, "warm"):
            self._call("warm")

    def unload(self) -> None:
        """Call the model's `unload`, if it has one, and forget the module either way."""
        try:
            if hasattr(self._model, "unload"):
                self._call("unload")
        finally:
            self._model = None
            sys.modules.pop(self._module, None)

    def _call(self, name: str) -> None:
        try:
            getattr(self._model, name)()
        except BaseException as exc:
            raise Failed(f"model {self.config.name} failed in {name}: {described(exc)}") from exc


class _Loader(SourceFileLoader):
    """Leaves no compiled file behind: a repository can be read-only, and is watched."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def _imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, _Loader(name, str(path)))
    if spec is None or spec.loader is None:
        raise Misconfigured(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        del sys.modules[name]
        raise _broken(path, exc) from exc
    return module


def _created(module: ModuleType, config: ModelConfig) -> Any:
    kind = getattr(module, "Model", None)
    if not isinstance(kind, type) or not callable(getattr(kind, "infer", None)):
        raise Misconfigured(f"{module.__file__} must define a class Model with a method infer(self, inputs)")
    if inspect.signature(kind).parameters:
        return kind(deepcopy(dict(config.json)))
    return kind()


def _broken(path: Path, exc: BaseException) -> Misconfigured:
    return Misconfigured(f"{path} does not load: {described(exc)}")
