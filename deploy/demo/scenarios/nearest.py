"""Nearest-neighbour classifiers as Python files, with a line that makes them slow or kills their process."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from deploy.demo.digits import Digits
from processors.repository import write_version

CODE = """\
import os
import time

import numpy as np


class Model:
    def load(self, folder):
        known = np.load(folder / "known.npz")
        self.images, self.labels = known["images"], known["labels"]

    def infer(self, inputs):
        images = inputs["image"]
        %s
        distances = ((images[:, None] - self.images[None]) ** 2).sum(2)
        return {"probabilities": np.eye(10, dtype=np.float32)[self.labels[distances.argmin(1)]]}
"""
# An image whose sum of pixels is a multiple of five ends the interpreter, and the replica with it.
DEADLY = "[os._exit(1) for total in images.sum(1) if int(total) % 5 == 0]"
SLOW = "time.sleep(0.2)"


def write_nearest(folder: Path, model: str, known: Digits, config: str, before: str) -> None:
    """Write a classifier and its known digits as version 1; `before` is a line that runs before each computation."""
    file = io.BytesIO()
    np.savez(file, images=known.images, labels=known.labels)
    files: dict[str, bytes | Path] = {"model.py": (CODE % before).encode(), "known.npz": file.getvalue()}
    write_version(folder / "models", model, 1, files, config=config)
