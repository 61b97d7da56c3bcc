"""The table of runtimes. Reading it imports no runtime: torch alone is hundreds of megabytes.

A new runtime is one module with a subclass of `Runtime`, and one line in `BUILT_IN`. A runtime of another package is an
entry point of the group `millrace.runtimes` that names the class, for example `catboost = "acme.serving:CatBoost"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Final

GROUP: Final = "millrace.runtimes"

TRITON_FILES: Final[Mapping[str, str]] = {
    "model.graphdef": "tensorflow",
    "model.savedmodel": "tensorflow",
    "model.plan": "tensorrt",
    "model.onnx": "onnxruntime",
    "model.xml": "openvino",
    "model.pt": "pytorch",
    "model.py": "python",
}
"""The model files from which Triton infers the backend when a config names none, in Triton's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEntry:
    """One runtime: the path of its class, the model file that it loads by default, and its other names."""

    path: str  # "module:class"
    file: str
    platforms: tuple[str, ...] = ()  # names that Triton accepts as `platform`
    package: str = ""  # to install if the libraries of the runtime are missing


BUILT_IN: Final[Mapping[str, RuntimeEntry]] = {
    "pytorch": RuntimeEntry(
        path="processors.runtimes.torch:TorchRuntime",
        file="model.pt",
        platforms=("pytorch_libtorch",),
        package="millrace[torch]",
    ),
    "python": RuntimeEntry(path="processors.runtimes.python:PythonRuntime", file="model.py"),
}


def find_runtime(name: str) -> RuntimeEntry | None:
    """Return a runtime by its backend or platform name, or None. Other packages cannot replace a built-in one."""
    return BUILT_IN.get(name) or installed_runtimes().get(name)


def runtime_names() -> list[str]:
    """The names of all runtimes, built-in ones first."""
    return [*BUILT_IN, *(name for name in installed_runtimes() if name not in BUILT_IN)]


def backend_name(name: str) -> str:
    """The backend for a platform name; an unknown name is returned as it is."""
    return next((backend for backend, entry in BUILT_IN.items() if name in entry.platforms), name)


def backend_of_file(file: str) -> str:
    """The backend for a usual model file name, for example `python` for `model.py`; empty if there is none."""
    if file in TRITON_FILES:
        return TRITON_FILES[file]
    return next((name for name, entry in installed_runtimes().items() if entry.file == file), "")


def usual_files() -> list[str]:
    """The usual model file names of all backends: Triton's order first, then those of installed runtimes."""
    return list(dict.fromkeys([*TRITON_FILES, *(entry.file for entry in installed_runtimes().values())]))


@cache
def installed_runtimes() -> Mapping[str, RuntimeEntry]:
    """The runtimes of other installed packages, by name. The result is kept: searching costs milliseconds."""
    return {
        point.name: RuntimeEntry(path=point.value, file=_default_file(point.name), package=point.dist.name)
        for point in entry_points(group=GROUP)
        if point.dist is not None
    }


def _default_file(name: str) -> str:
    """Triton's usual file for a backend of this name, else `model.<name>`."""
    return next((file for file, backend in TRITON_FILES.items() if backend == name), f"model.{name}")
