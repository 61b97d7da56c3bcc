"""Loads model versions with the runtimes that their configs name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from broker.errors import Misconfigured
from processors.config import ModelConfig
from processors.runtimes.base import Runtime
from processors.runtimes.table import find_runtime, runtime_names


def load(folder: Path, config: ModelConfig, *, device: str = "cpu", threads: int = 1) -> Runtime:
    """Return the version in `folder`, loaded by the runtime that its config names. Raises `Misconfigured`."""
    return runtime_class(config.runtime).load(folder, config, device=device, threads=threads)


def runtime_class(name: str) -> type[Runtime]:
    """Import a runtime. Raises `Misconfigured` if it is unknown, or if its package or libraries are missing."""
    entry = find_runtime(name)
    if entry is None:
        raise Misconfigured(f"runtime {name!r} is unknown: it must be one of {', '.join(runtime_names())}")
    module, _, attribute = entry.path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as exc:
        missing = (exc.name or module).partition(".")[0]
        raise Misconfigured(f"runtime {name} needs {missing}: install {entry.package}") from exc
    except (ImportError, AttributeError) as exc:
        raise Misconfigured(f"runtime {name}: {entry.path} cannot be imported: {exc}") from exc
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise Misconfigured(f"runtime {name}: {entry.path} is no subclass of processors.runtimes.base.Runtime")
    return found
