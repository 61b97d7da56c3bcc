"""docs/extending/runtime.md is true: its package, its config and its model file make a model that computes."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from broker.errors import Misconfigured
from processors.repository import scan, write_version
from processors.runtimes.registry import load
from tests.installed_package import installed_package

TEXT = (Path(__file__).parents[2] / "docs/extending/runtime.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL))
PROJECT = tomllib.loads(BLOCKS["toml"])["project"]


def test_the_example_serves_a_model(tmp_path: Path) -> None:
    with installed_package(
        tmp_path / "site", PROJECT["name"], {"acme_linear": BLOCKS["python"]}, PROJECT["entry-points"]
    ):
        files = {"model.linear": BLOCKS["json"].encode()}
        write_version(tmp_path / "models", "price", 1, files, config=BLOCKS["protobuf"])
        model = scan(tmp_path / "models").models["price"]
        runtime = load(model.versions[0].folder, model.config)
        inputs = {"x": np.array([[1, 2], [0, 0]], np.float32)}
        assert runtime.infer(inputs)["y"].tolist() == [[9.0], [1.0]]
        runtime.unload()


def test_the_example_is_tried_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed_package(
        tmp_path / "site", PROJECT["name"], {"acme_linear": BLOCKS["python"]}, PROJECT["entry-points"]
    ):
        files = {"model.linear": BLOCKS["json"].encode()}
        write_version(tmp_path / "models", "price", 1, files, config=BLOCKS["protobuf"])
        monkeypatch.chdir(tmp_path)
        session = doctest.DocTestParser().get_doctest(BLOCKS["pycon"], {}, "runtime.md", "runtime.md", 0)
        assert doctest.DocTestRunner().run(session).failed == 0


def test_the_example_names_a_broken_model_file(tmp_path: Path) -> None:
    with installed_package(
        tmp_path / "site", PROJECT["name"], {"acme_linear": BLOCKS["python"]}, PROJECT["entry-points"]
    ):
        write_version(tmp_path / "models", "price", 1, {"model.linear": b"[]"}, config=BLOCKS["protobuf"])
        model = scan(tmp_path / "models").models["price"]
        with pytest.raises(Misconfigured, match="is not a linear model"):
            load(model.versions[0].folder, model.config)


def test_without_the_package_the_backend_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="backend is 'linear', and must be one of pytorch, python"):
        write_version(tmp_path / "models", "price", 1, {"model.linear": b""}, config=BLOCKS["protobuf"])
