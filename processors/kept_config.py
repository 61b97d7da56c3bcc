"""Keeps the last config with which a model was loaded.

While the config in the repository is wrong, the catalog leaves the replicas running. A replica that dies meanwhile
loads its model with the kept config.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from broker.errors import Misconfigured
from broker.support.private_files import make_private, make_private_folder
from processors.config import CONFIG_FILE, ModelConfig, read_config

logger = logging.getLogger(__name__)


def config_to_load(folder: Path, kept: Path) -> ModelConfig:
    """Return a model's config, or the one kept in folder `kept` if it is wrong. Raises `Misconfigured`."""
    try:
        return read_config(folder)
    except Misconfigured as exc:
        try:
            config = read_config(folder, kept / f"{folder.name}.pbtxt")
        except Misconfigured:
            raise exc from None
        logger.warning("%s; the model is loaded with the config that worked last", exc)
        return config


def keep_config(folder: Path, kept: Path) -> None:
    """Keep a model's config after it has been loaded. Nothing is kept if the folder `kept` cannot be written."""
    with contextlib.suppress(OSError, Misconfigured):
        read_config(folder)  # it may have changed since
        make_private_folder(kept)
        draft = kept / f".{folder.name}.{os.getpid()}"
        shutil.copyfile(folder / CONFIG_FILE, draft)
        make_private(draft)
        draft.replace(kept / f"{folder.name}.pbtxt")
