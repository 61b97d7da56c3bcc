"""A model imports the modules beside its `model.py` as a script does, and no other code can import them."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from broker.errors import Misconfigured
from processors.runtimes.base import Runtime
from processors.runtimes.registry import load
from tests.processors.small_model import model_config

HELPER = "FACTOR = {}\n\n\ndef scaled(x):\n    return x * FACTOR\n"
MODEL = """
import numpy as np
{}

class Model:
    def infer(self, inputs):
        {}
        return {{"y": (inputs["x"] * {}).astype(np.float32)}}
"""


def version(root: Path, number: int, files: Mapping[str, str]) -> Runtime:
    folder = root / str(number)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return load(folder, model_config())


def factor(runtime: Runtime) -> float:
    return float(runtime.infer({"x": np.ones((1, 2), np.float32)})["y"][0, 0])


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("import helper", "helper.FACTOR"),
        ("import helper as other", "other.FACTOR"),
        ("from helper import FACTOR", "FACTOR"),
        ("from helper import *", "FACTOR"),
        ("from .helper import FACTOR", "FACTOR"),
        ("from . import helper", "helper.FACTOR"),
        ("import package.deep.inner", "package.deep.inner.FACTOR"),
        ("from package.deep import inner", "inner.FACTOR"),
        ("from .package.deep.inner import FACTOR", "FACTOR"),
        ("from package import FACTOR", "FACTOR"),
        ("from importlib import import_module\nhelper = import_module('helper')", "helper.FACTOR"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at the top", "in infer"])
def test_two_versions_import_their_own_helpers_and_leave_none(
    tmp_path: Path, statement: str, value: str, late: bool
) -> None:
    if late and "*" in statement:
        pytest.skip("Python has no such import in a function")
    before = dict(sys.modules)
    for number in (2, 3):
        inner = "\n        ".join(statement.splitlines())
        runtime = version(
            tmp_path,
            number,
            {
                "model.py": MODEL.format("" if late else statement, inner if late else "", value),
                "helper.py": HELPER.format(number),
                "package/__init__.py": "from .deep.inner import FACTOR\n",
                "package/deep/__init__.py": "import helper\n",
                "package/deep/inner.py": "import helper as h\nfrom ...helper import FACTOR\nassert h.FACTOR == FACTOR",
            },
        )
        assert factor(runtime) == number
        runtime.unload()
    assert {name for name in set(sys.modules) - set(before) if "millrace_model" in name or "helper" in name} == set()
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_loaded_versions_share_no_module(tmp_path: Path) -> None:
    runtimes = [
        version(
            tmp_path,
            number,
            {"model.py": MODEL.format("import helper", "", "helper.FACTOR"), "helper.py": HELPER.format(number)},
        )
        for number in (2, 3)
    ]
    assert [factor(runtime) for runtime in runtimes] == [2, 3]
    runtimes[0].unload()
    assert factor(runtimes[1]) == 3
    runtimes[1].unload()


def test_the_folder_hides_nothing_from_the_process_and_folders_of_data_hide_no_package(tmp_path: Path) -> None:
    """A model's `queue.py` is its own; a folder of files called `numpy` is none of its modules."""
    sys.modules.pop("colorsys", None)
    runtime = version(
        tmp_path,
        1,
        {
            "model.py": MODEL.format("import colorsys", "", "colorsys.FACTOR"),
            "colorsys.py": HELPER.format(5),
            "numpy/weights.txt": "",
        },
    )
    assert factor(runtime) == 5
    import colorsys

    assert hasattr(colorsys, "rgb_to_hsv")
    assert str(tmp_path) not in "".join(sys.path)
    runtime.unload()


def test_a_pickle_of_a_helpers_class_is_read(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_loader("helper", None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec("class Scale:\n    factor = 4\n", module.__dict__)  # noqa: S102 - a class whose module is named helper
    sys.modules["helper"] = module
    try:
        pickled = pickle.dumps(module.Scale())
    finally:
        del sys.modules["helper"]
    (tmp_path / "1").mkdir()
    (tmp_path / "1/scale.pkl").write_bytes(pickled)
    opening = "import pathlib, pickle\nscale = pickle.loads((pathlib.Path(__file__).parent / 'scale.pkl').read_bytes())"
    runtime = version(
        tmp_path,
        1,
        {"model.py": MODEL.format(opening, "", "scale.factor"), "helper.py": "class Scale:\n    factor = 4\n"},
    )
    assert factor(runtime) == 4
    runtime.unload()
    assert "helper" not in sys.modules


def test_a_helper_may_import_the_model_and_gets_the_same_module(tmp_path: Path) -> None:
    runtime = version(
        tmp_path,
        1,
        {
            "model.py": MODEL.format("FACTOR = [7]\nimport helper", "", "helper.factor()"),
            "helper.py": "import model\n\n\ndef factor():\n    return model.FACTOR[0]\n",
        },
    )
    assert factor(runtime) == 7
    runtime.unload()


@pytest.mark.parametrize("helper", ["1 / 0", "import nothing_of_this_name", "def ("])
def test_a_helper_that_does_not_load_is_named_and_leaves_no_module(tmp_path: Path, helper: str) -> None:
    finders, modules = list(sys.meta_path), set(sys.modules)
    with pytest.raises(Misconfigured, match=r"model\.py does not load"):
        version(tmp_path, 1, {"model.py": MODEL.format("import helper", "", "1"), "helper.py": helper})
    assert sys.meta_path == finders
    assert not {name for name in set(sys.modules) - modules if "millrace_model" in name}
