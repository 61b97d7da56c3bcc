"""The last config with which a model was loaded: a config that becomes wrong must not end what is served by it.

The catalog leaves the replicas running then; this is for one that dies meanwhile.
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

log = logging.getLogger(__name__)


def config_to_load(folder: Path, kept: Path) -> ModelConfig:
    """Return a model's config; if it is wrong, the one in `kept` that worked last. Raises `Misconfigured`."""
    try:
        return read_config(folder)
    except Misconfigured as exc:
        try:
            config = read_config(folder, kept / f"{folder.name}.pbtxt")
        except Misconfigured:
            raise exc from None
        log.warning("%s; it is loaded with the config that worked last", exc)
        return config


def keep_config(folder: Path, kept: Path) -> None:
    """Keep a model's config, with which it has been loaded. A folder that cannot be written to keeps none."""
    with contextlib.suppress(OSError, Misconfigured):
        read_config(folder)  # it may have changed since
        make_private_folder(kept)
        draft = kept / f".{folder.name}.{os.getpid()}"
        shutil.copyfile(folder / CONFIG_FILE, draft)
        make_private(draft)
        draft.replace(kept / f"{folder.name}.pbtxt")
