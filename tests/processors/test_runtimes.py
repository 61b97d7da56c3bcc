"""The runtimes, with real TorchScript files and real Python models."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import Failed, Misconfigured
from processors.config import ModelConfig, parse_config
from processors.runtimes.base import Runtime
from processors.runtimes.registry import load
from tests.processors.small_model import X, infer, model_config

torch = pytest.importorskip("torch", reason="the torch extra is not installed")


def python(folder: Path, body: str, declared: ModelConfig | None = None) -> Runtime:
    (folder / "model.py").write_text("import numpy as np\n" + textwrap.dedent(body))
    return load(folder, declared or model_config())


def scripted(folder: Path, forward: str, declared: ModelConfig) -> Runtime:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        module = type("Net", (torch.jit.ScriptModule,), {})()
        module.define(f"def forward(self, {forward}\n")
        module.save(str(folder / "model.pt"))
    return load(folder, declared)


def test_a_torchscript_module_computes(tmp_path: Path) -> None:
    runtime = scripted(tmp_path, "x): return x * 2", model_config("pytorch"))
    runtime.warm()
    np.testing.assert_array_equal(infer(runtime)["y"], X * 2)
    runtime.unload()


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        ("a, b): return a - 2 * b", 1),
        ("b, a): return a - 2 * b", 1),
        ("a, b, c: int = 3): return c * a - 2 * b", 3),
        ("a, c: int = 3, b: Optional[Tensor] = None): return c * a - 2 * torch.jit._unwrap_optional(b)", 3),
    ],
)
def test_inputs_find_the_arguments_of_their_names(tmp_path: Path, forward: str, expected: int) -> None:
    text = """
    backend: "pytorch" max_batch_size: 8
    input { name: "b" data_type: TYPE_FP32 dims: 2 }
    input { name: "a" data_type: TYPE_FP32 dims: 2 }
    output { name: "y" data_type: TYPE_FP32 dims: 2 }
    """
    runtime = scripted(tmp_path, forward, parse_config(text, model="m", source="s"))
    np.testing.assert_array_equal(infer(runtime, a=X.copy(), b=X + 1)["y"], expected * X - 2 * (X + 1))


def test_a_module_may_not_write_into_a_request(tmp_path: Path) -> None:
    runtime = scripted(tmp_path, "x): return x.mul_(2)", model_config("pytorch"))
    source = X.copy()
    source.setflags(write=False)
    np.testing.assert_array_equal(infer(runtime, x=source)["y"], X * 2)
    np.testing.assert_array_equal(source, X)


TWO = 'b__1" data_type: TYPE_FP32 dims: 2 } output { name: "a__0" data_type: TYPE_INT64 dims: 2'


@pytest.mark.parametrize(
    ("forward", "outputs"),
    [
        ("x): return x.long(), x + 1", TWO),
        (
            "x): return [x + 1, x + 2]",
            'b" data_type: TYPE_FP32 dims: 2 } output { name: "a" data_type: TYPE_FP32 dims: 2',
        ),
        ('x): return {"a__0": x.long(), "b__1": x + 1}', TWO),
    ],
    ids=["a tuple by index", "a list in order", "a dict by name"],
)
def test_many_outputs_are_matched_to_the_config(tmp_path: Path, forward: str, outputs: str) -> None:
    computed = infer(scripted(tmp_path, forward, model_config("pytorch", outputs)))
    first = next(name for name in computed if name.startswith("b"))
    np.testing.assert_array_equal(computed[first], X + 1)


MORE = 'input { name: "a" data_type: TYPE_FP32 dims: 2 }'


@pytest.mark.parametrize("forward", ["x, a): return x - a", "first, second): return second - first"])
def test_inputs_are_passed_by_name_or_in_order(tmp_path: Path, forward: str) -> None:
    runtime = scripted(tmp_path, forward, model_config("pytorch", more=MORE))
    np.testing.assert_array_equal(infer(runtime, x=X + 3, a=X.copy())["y"], np.full((3, 2), 3))


def test_indexed_inputs_are_passed_by_index(tmp_path: Path) -> None:
    text = """
    backend: "pytorch" max_batch_size: 8
    input { name: "INPUT__1" data_type: TYPE_FP32 dims: 2 }
    input { name: "INPUT__0" data_type: TYPE_FP32 dims: 2 }
    output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: 2 }
    """
    runtime = scripted(tmp_path, "p, q): return p - q", parse_config(text, model="m", source="s"))
    np.testing.assert_array_equal(infer(runtime, INPUT__0=X + 3, INPUT__1=X.copy())["OUTPUT__0"], np.full((3, 2), 3))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("x): return x, x", r"returned 2 outputs, and its config declares 1: y"),
        ('x): return {"z": x}', "returned no output y: it returned z"),
        ('x): return {"y": x, "z": x}', "returned z: its config declares no such output"),
        ("x): return x.double()", "output y is float64, and its config declares FP32"),
        ("x): return x.to(torch.bfloat16)", "BFloat16"),
        ("x): return x[:1]", r"output y has shape \[1, 2\], and must have \[3, 2\]"),
        ("x): return x.sum()", r"output y has shape \[\]"),
        ("x): return x @ x", "model m failed: RuntimeError"),
    ],
)
def test_a_wrong_output_of_a_module_is_named(tmp_path: Path, forward: str, message: str) -> None:
    runtime = scripted(tmp_path, forward, model_config("pytorch"))
    with pytest.raises(Failed, match=message) as caught:
        infer(runtime)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("forward", "more", "message"),
    [
        ("x, a): return x", "", "takes x, a, and its config declares x"),
        ("x): return x", MORE, "takes x, and its config declares a, x"),
    ],
)
def test_a_module_with_other_inputs_does_not_load(tmp_path: Path, forward: str, more: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        scripted(tmp_path, forward, model_config("pytorch", more=more))


def test_a_file_that_is_not_torchscript_does_not_load_nor_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (ran,)  # type: ignore[return-value]  # a pickle would call it

    for content in (b"not a model", b""):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(Misconfigured, match=r"model\.pt is not a TorchScript file"):
            load(tmp_path, model_config("pytorch"))
    torch.save(Trap(), tmp_path / "model.pt")
    with pytest.raises(Misconfigured, match=r"model\.pt is not a TorchScript file"):
        load(tmp_path, model_config("pytorch"))
    assert not ran.exists()


def test_torch_serves_no_strings(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(Misconfigured, match="torch has no TYPE_STRING: y"):
        load(tmp_path, model_config("pytorch", 'y" data_type: TYPE_STRING dims: 2'))


COUNTED = """
import sys, threading, warnings
from pathlib import Path
import numpy as np, psutil
warnings.simplefilter("ignore")
from processors.config import parse_config
from processors.runtimes.registry import load
text = 'backend: "pytorch" input { name: "x" data_type: TYPE_FP32 dims: [ 512, 512 ] } '
text += 'output { name: "y" data_type: TYPE_FP32 dims: [ 512, 512 ] }'
config, made = parse_config(text, model="m", source="s"), []
def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
in_thread(lambda: made.append(load(Path(sys.argv[1]), config, threads=int(sys.argv[2]))))
def seconds():
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}
def compute():
    before = seconds()
    for _ in range(150):
        made[0].infer({"x": np.ones((512, 512), np.float32)})
    spent = [after - before.get(number, 0.0) for number, after in seconds().items()]
    print(len([one for one in spent if one > max(spent) / 4]))
in_thread(compute)
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_torch_uses_its_number_of_threads_in_every_calling_thread(tmp_path: Path, threads: int) -> None:
    scripted(tmp_path, "x): return x @ x", model_config("pytorch"))
    command = [sys.executable, "-c", COUNTED, str(tmp_path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == threads


@pytest.mark.parametrize(("device", "message"), [("tpu?", "must be cpu"), ("cuda:99", "use cpu or auto")])
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str, message: str) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(Misconfigured, match=message):
        load(tmp_path, model_config("pytorch"), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_module_computes_on_the_gpu(tmp_path: Path) -> None:
    scripted(tmp_path, "x): return x * 2", model_config("pytorch")).unload()
    runtime = load(tmp_path, model_config("pytorch"), device="cuda")
    runtime.warm()
    np.testing.assert_array_equal(infer(runtime)["y"], X * 2)
    runtime.unload()


@pytest.mark.parametrize("backend", ["python", "pytorch"])
def test_a_missing_file_is_named(tmp_path: Path, backend: str) -> None:
    with pytest.raises(Misconfigured, match=r"model\.p.* is missing: model m has nothing to load"):
        load(tmp_path, model_config(backend))


def test_a_python_model_lives_from_load_to_unload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    body = """
    class Model:
        def __init__(self, config):
            self.factor = float(config["parameters"]["factor"]["string_value"])
        def load(self, folder):
            self.folder = folder
        def warm(self):
            (self.folder / "warm").touch()
        def infer(self, inputs):
            return {"y": inputs["x"] * np.float32(self.factor)}
        def unload(self):
            (self.folder / "unloaded").touch()
    """
    runtime = python(tmp_path, body, model_config(more='parameters { key: "factor" value: { string_value: "3" } }'))
    runtime.warm()
    np.testing.assert_array_equal(infer(runtime)["y"], X * 3)
    runtime.unload()
    assert (tmp_path / "warm").exists()
    assert (tmp_path / "unloaded").exists()
    assert not (tmp_path / "__pycache__").exists()


SIMPLE = """
class Model:
    def infer(self, inputs):
        return {"y": inputs["x"] + %s}
"""


def test_torch_in_a_python_model_forks_onto_one_thread(tmp_path: Path) -> None:
    """In a process of its own: torch takes the number once in a process."""
    (tmp_path / "model.py").write_text(
        "import torch\n\nclass Model:\n    def infer(self, inputs):\n        return {}\n", "utf-8"
    )
    code = """
import sys
from pathlib import Path
from processors.config import parse_config
from processors.runtimes.python import PythonRuntime

config = parse_config(sys.argv[2], model="m", source="config.pbtxt")
PythonRuntime.load(Path(sys.argv[1]), config, device="cpu", threads=1)
print(sys.modules["torch"].get_num_interop_threads())
"""
    text = """
    backend: "python" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: 2 } output { name: "y" data_type: TYPE_FP32 dims: 2 }
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path, text], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_two_versions_share_no_state_and_leave_none(tmp_path: Path) -> None:
    modules = set(sys.modules)
    runtimes = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        runtimes.append(python(folder, SIMPLE % number))
    assert [float(infer(runtime)["y"][0, 0]) for runtime in runtimes] == [2, 3]
    for runtime in runtimes:
        runtime.warm()
        runtime.unload()
    assert not {name for name in set(sys.modules) - modules if name.startswith("millrace_model")}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned NoneType"),
        ("[x]", "returned list"),
        ("{}", "returned no output y: it returned nothing"),
        ('{"z": x}', "returned no output y: it returned z"),
        ('{"y": x, "z": x}', "returned z: its config declares no such output"),
        ('{"y": x.tolist()}', "output y is a list"),
        ('{"y": x.astype("f8")}', "output y is float64, and its config declares FP32: convert it"),
        ('{"y": x[:2]}', r"output y has shape \[2, 2\], and must have \[3, 2\]"),
        ('{"y": x[:, :1]}', r"output y has shape \[3, 1\]"),
        ("1 / 0", "model m failed: ZeroDivisionError: division by zero"),
        ("exit(3)", "model m failed: SystemExit"),
        ('int("9" * 4000 + "x" * 9000)', "model m failed: ValueError"),
    ],
)
def test_a_wrong_output_of_a_python_model_is_named(tmp_path: Path, returned: str, message: str) -> None:
    body = f"""
    class Model:
        def infer(self, inputs):
            x = inputs["x"]
            return {returned}
    """
    runtime = python(tmp_path, body)
    with pytest.raises(Failed, match=message) as caught:
        infer(runtime)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def infer(", "does not load: SyntaxError"),
        ("import nothing_of_this_name", "does not load: ModuleNotFoundError"),
        ("exit(1)", "does not load: SystemExit"),
        ("x = 1", "must define a class Model"),
        ("class Model: pass", "must define a class Model"),
        ("class Model:\n  def infer(self, inputs): ...\n  def load(self, folder): 1 / 0", "ZeroDivisionError"),
        ("class Model:\n  def infer(self, inputs): ...\n  def __init__(self, a, b): ...", "TypeError"),
    ],
)
def test_a_python_file_that_does_not_load_is_named(tmp_path: Path, body: str, message: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(Misconfigured, match=message):
        python(tmp_path, body)
    assert not {name for name in set(sys.modules) - modules if name.startswith("millrace_model")}


@pytest.mark.parametrize("method", ["warm", "unload"])
def test_a_failing_hook_is_a_failure_of_the_model(tmp_path: Path, method: str) -> None:
    runtime = python(tmp_path, (SIMPLE % 1) + f"    def {method}(self):\n        raise KeyError('k')\n")
    with pytest.raises(Failed, match=f"model m failed in {method}: KeyError"):
        getattr(runtime, method)()


def test_strings_pass_through_a_python_model(tmp_path: Path) -> None:
    body = """
    class Model:
        def infer(self, inputs):
            return {"y": np.array([["a", "b"]] * len(inputs["x"]))}
    """
    runtime = python(tmp_path, body, model_config(outputs='y" data_type: TYPE_STRING dims: 2'))
    assert infer(runtime)["y"].shape == (3, 2)


def test_a_model_without_a_batch_dimension_keeps_its_shapes(tmp_path: Path) -> None:
    text = """
    backend: "python"
    input { name: "x" data_type: TYPE_FP32 dims: [ 3, 2 ] }
    output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
    """
    body = 'class Model:\n    def infer(self, inputs):\n        return {"y": inputs["x"].sum(axis=1)}'
    runtime = python(tmp_path, body, parse_config(text, model="m", source="s"))
    assert infer(runtime)["y"].tolist() == [3, 7, 11]


def test_a_model_may_use_its_output_buffer_again(tmp_path: Path) -> None:
    runtime = python(
        tmp_path,
        """
        class Model:
            buffer = np.zeros((8, 2), np.float32)

            def infer(self, inputs):
                out = self.buffer[: len(inputs["x"])]
                out[:] = inputs["x"]
                return {"y": out}
        """,
    )
    first = infer(runtime)
    infer(runtime, x=X + 100)
    np.testing.assert_array_equal(first["y"], X)
