"""A model repository on disk, for tests."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
version_policy { all {} }
"""


def add_versions(root: Path, model: str, *versions: int, config: str = CONFIG) -> None:
    """Add versions of a Python model, and its config."""
    for version in versions:
        (root / model / str(version)).mkdir(parents=True)
        (root / model / str(version) / "model.py").write_text("code")
    (root / model / "config.pbtxt").write_text(config)
