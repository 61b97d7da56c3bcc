"""Runtimes are found by name: built-in ones, and those of other installed packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker.errors import Misconfigured
from processors.config import parse_config
from processors.runtimes.registry import load, runtime_class
from processors.runtimes.table import GROUP, runtime_names
from tests.installed_package import installed_package

TENSORS = """
    max_batch_size: 4
    input { name: "x" data_type: TYPE_FP32 dims: 1 }
    output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""
TOY = """
from processors.runtimes.base import Runtime


class Toy(Runtime):
    @classmethod
    def load(cls, folder, config, *, device, threads):
        return cls(config)

    def compute(self, inputs):
        return {"y": inputs["x"] + 1}

    def unload(self):
        pass
"""


def test_a_toy_runtime_needs_only_its_one_file(tmp_path: Path) -> None:
    with installed_package(tmp_path, "toys", {"toys": TOY}, {GROUP: {"toy": "toys:Toy"}}):
        config = parse_config(f'backend: "toy" {TENSORS}', model="m", source="test")
        assert config.file == "model.toy"
        runtime = load(tmp_path, config)
        assert runtime.infer({"x": np.ones((2, 1), np.float32)})["y"].tolist() == [[2.0], [2.0]]


def test_an_installed_runtime_follows_from_its_model_file(tmp_path: Path) -> None:
    points = {GROUP: {"toy": "toys:Toy", "onnxruntime": "toys:Toy"}}
    with installed_package(tmp_path, "toys", {"toys": TOY}, points):
        for file, backend in (("model.toy", "toy"), ("model.onnx", "onnxruntime")):
            config = parse_config(TENSORS, model="m", source="test", has=file.__eq__)
            assert (config.runtime, config.file) == (backend, file)


def test_an_installed_runtime_cannot_replace_a_built_in_one(tmp_path: Path) -> None:
    with installed_package(tmp_path, "toys", {"toys": TOY}, {GROUP: {"python": "toys:Toy"}}):
        assert runtime_class("python").__name__ == "PythonRuntime"
        assert runtime_names() == ["pytorch", "python"]


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with installed_package(tmp_path, "toys", {"toys": TOY}, {GROUP: {"toy": "toys:Toy"}}):
        config = parse_config(f'backend: "toy" {TENSORS}', model="m", source="test")
        with pytest.raises(Misconfigured, match="runtime 'toi' is unknown: it must be one of pytorch, python, toy"):
            load(tmp_path, replace(config, runtime="toi"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("toys:Missing", "cannot be imported: module 'toys' has no attribute 'Missing'"),
        ("not_there:Toy", "runtime toy needs not_there: install toys"),
        ("toys:__name__", "is no subclass of processors.runtimes.base.Runtime"),
    ],
)
def test_a_runtime_that_cannot_be_imported_is_named(tmp_path: Path, path: str, text: str) -> None:
    with (
        installed_package(tmp_path, "toys", {"toys": TOY}, {GROUP: {"toy": path}}),
        pytest.raises(Misconfigured, match=text),
    ):
        runtime_class("toy")
