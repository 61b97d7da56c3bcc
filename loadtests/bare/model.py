"""The model of both baselines: TorchScript on one thread."""

from __future__ import annotations

from typing import Any


def torch_model(path: str) -> Any:
    """Return a function that maps the floats of a batch, as bytes, to the output of each row, as bytes."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(path)  # type: ignore[no-untyped-call]

    def infer(data: bytes) -> list[bytes]:
        rows = torch.from_numpy(np.frombuffer(bytearray(data), np.float32).reshape(-1, 64))
        with torch.inference_mode():
            output = module(rows).numpy()
        raw, width = output.tobytes(), output.shape[1] * 4
        return [raw[at : at + width] for at in range(0, len(raw), width)]

    infer(bytes(256))
    return infer
