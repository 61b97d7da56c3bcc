"""A small model for tests of runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np

from processors.config import ModelConfig, parse_config
from processors.runtimes.base import Runtime

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def model_config(
    backend: str = "python", outputs: str = 'y" data_type: TYPE_FP32 dims: 2', more: str = ""
) -> ModelConfig:
    """Return the config of a model with the input `x`, two numbers per row, and one output."""
    text = f"""
    backend: "{backend}" max_batch_size: 8 {more}
    input {{ name: "x" data_type: TYPE_FP32 dims: 2 }}
    output {{ name: "{outputs} }}
    """
    return parse_config(text, model="m", source="config.pbtxt")


def infer(runtime: Runtime, **inputs: Any) -> dict[str, Any]:
    """Compute one batch, by default `X`."""
    return runtime.infer(inputs or {"x": X.copy()})
