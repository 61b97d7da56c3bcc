"""Loads one model version, in a thread that ends after it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from processors.kept_config import config_to_load, keep_config
from processors.model import LoadedModel
from processors.runtimes.registry import load


async def load_model(
    repository: Path, model: str, version: int, *, kept_configs: Path, device: str, threads: int
) -> LoadedModel:
    """Load and warm a model version; then keep its config, with which it can be loaded again.

    `device` is used unless the config names one. Raises `Misconfigured`, and `Failed` if warming fails.
    """
    config = config_to_load(repository / model, kept_configs)
    folder = repository / model / str(version)
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "load")  # native libraries keep a thread pool for it, which ends with it
    try:
        runtime = await loop.run_in_executor(
            thread, lambda: load(folder, config, device=config.device or device, threads=threads)
        )
        await loop.run_in_executor(thread, runtime.warm)
        keep_config(repository / model, kept_configs)
    finally:
        thread.shutdown(wait=False)
    return LoadedModel(config, version, runtime)
