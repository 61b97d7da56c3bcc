"""Which runtime loads which model."""

from __future__ import annotations

from pathlib import Path

from broker.errors import Misconfigured
from processors.config import ModelConfig
from processors.runtimes.base import Runtime


def load(folder: Path, config: ModelConfig, *, device: str = "cpu", threads: int = 1) -> Runtime:
    """Return the version in `folder`, loaded by the runtime that its config names. Raises `Misconfigured`."""
    return _kind(config.runtime).load(folder, config, device=device, threads=threads)


def _kind(runtime: str) -> type[Runtime]:
    # A process imports the runtimes that it uses: torch alone is hundreds of megabytes.
    if runtime == "python":
        from processors.runtimes.python import PythonRuntime

        return PythonRuntime
    try:
        from processors.runtimes.torch import TorchRuntime
    except ModuleNotFoundError as exc:
        raise Misconfigured(f"runtime {runtime} needs torch: install millrace[torch]") from exc
    return TorchRuntime
