"""A TorchScript file holds hooks and parameters beside its code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import Failed
from processors.runtimes.registry import load
from tests.processors.small_model import X, infer, model_config

pytest.importorskip("torch", reason="the torch extra is not installed")

import torch
from torch import Tensor, nn


class Hooked(nn.Module):
    """Doubles its input; the hook in its file runs afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def one_more(_: Hooked, inputs: tuple[Tensor], result: Tensor) -> Tensor:
    return result + 1


class Constant(nn.Module):
    """Returns its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.learnt = nn.Parameter(torch.from_numpy(X))

    def forward(self, _: Tensor) -> Tensor:
        return self.learnt


@pytest.mark.parametrize(("module", "expected"), [(Hooked(), X * 2 + 1), (Constant(), X)], ids=["hook", "parameter"])
def test_a_loaded_module_has_its_hooks_and_parameters(tmp_path: Path, module: Any, expected: Any) -> None:
    if isinstance(module, Hooked):
        module.register_forward_hook(one_more)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        torch.jit.script(module).save(str(tmp_path / "model.pt"))
    runtime = load(tmp_path, model_config("pytorch"))
    np.testing.assert_array_equal(infer(runtime)["y"], expected)
    assert not torch.is_inference_mode_enabled()
    runtime.unload()
    with pytest.raises(Failed):
        infer(runtime)
