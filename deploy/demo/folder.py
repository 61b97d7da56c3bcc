"""Writes the files of the demonstration's folder: settings, models and endpoints, as in a user's project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from processors.repository import write_version

ENDPOINT = "digits"
INPUT = "image"
OUTPUT = "probabilities"
MAX_BATCH = 32

CONFIG = f"""\
name: "%s"
backend: "pytorch"
max_batch_size: {MAX_BATCH}
# Pixels from 0 to 16, row by row, as scikit-learn's load_digits() has them.
input [ {{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ 10 ] }} ]
"""

SETTINGS = """\
version: 1
environment: demo
prefix: %s
data: data
repository: {url: models}
processors: {engine: %s}
gateway: {host: 127.0.0.1, http_port: %d}
metrics: {port: %d}
endpoints: endpoints/*.yaml
"""

DECLARATION = """\
endpoint: digits
arms: {linear: linear@1, cnn: cnn@1}
policy: {split: {linear: 50, cnn: 50}}
"""


def write_models(folder: Path, models: Mapping[str, bytes]) -> None:
    """Publish each TorchScript file as version 1 of a model."""
    for name, script in models.items():
        write_version(folder / "models", name, 1, {"model.pt": script}, config=CONFIG % name)


def write_endpoint(folder: Path, name: str, declaration: str) -> None:
    """Write an endpoint file, or replace it; readers never see a partly written file."""
    path = folder / "endpoints" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(declaration, "utf-8")
    draft.replace(path)


def write_settings(folder: Path, *, prefix: str, engine: str, http_port: int, metrics_port: int) -> Path:
    """Write `millrace.yaml` and return its path."""
    path = folder / "millrace.yaml"
    path.write_text(SETTINGS % (prefix, engine, http_port, metrics_port), "utf-8")
    return path
