"""Limits of native thread pools and of freed memory, in the environment of processes.

A model computes with as many threads as `processors.threads` allows, with every runtime and engine.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from deploy.processes.native import pools, replica_environment
from tests.deploy.running import ROOT, WITHIN_S, Up, environment, millrace

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

SIZE = 1024
FAULTS = """
import resource, threading
import numpy as np

def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        held = [np.ones(1 << 20) for _ in range(4)]  # 8 MiB each: larger than the buffers that glibc keeps by default
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def compute():
    faults(2)
    print(faults(20))

thread = threading.Thread(target=compute)
thread.start()
thread.join()
"""
CONFIG = """
backend: "%s"
input [ { name: "times" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
ONCE, OFTEN = 1, 60  # the larger number of products takes about a second
NUMPY = f"""
import numpy as np

class Model:
    def infer(self, inputs):
        x = y = np.ones(({SIZE}, {SIZE}), np.float32)
        for _ in range(int(inputs["times"][0])):
            y = x @ y / {SIZE}
        return {{"y": y[0, :1].copy()}}
"""
# Only products: another operation of torch before them would set the number of threads.
TORCH = f"""
def forward(self, times):
    x = torch.ones({SIZE}, 1) @ (torch.ones(1, {SIZE}) / {SIZE})
    y = torch.ones({SIZE}, 1) @ torch.ones(1, {SIZE})
    for _ in range(int(times)):
        y = x @ y
    return y[0, :1]
"""


def write_models(folder: Path) -> None:
    for name, backend in (("numpy", "python"), ("torch", "pytorch")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG % backend, "utf-8")
    (folder / "numpy/1/model.py").write_text(NUMPY, "utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit")
        module = type("Net", (torch.jit.ScriptModule,), {})()
        module.define(TORCH)
        module.save(str(folder / "torch/1/model.pt"))


@pytest.fixture(
    scope="module", params=[("process", 1), ("process", 2), ("ray", 2)], ids=["process-1", "process-2", "ray-2"]
)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, int]]:
    engine, threads = request.param
    if engine == "ray":
        pytest.importorskip("ray", reason="the ray extra is not installed")
    folder = tmp_path_factory.mktemp("native")
    millrace("init", "shop", folder=folder)
    write_models(folder / "shop/models")
    up = Up(folder / "shop", "--engine", engine, MILLRACE__PROCESSORS__THREADS=str(threads))
    try:
        up.wait_for("ready   http")
        yield up, threads
    finally:
        up.stop()


def ask(up: Up, model: str, times: int) -> None:
    body = {"inputs": [{"name": "times", "shape": [1], "datatype": "INT64", "data": [times]}]}
    done = millrace("predict", model, folder=up.folder, env=up.env, text=json.dumps(body))
    assert json.loads(done.stdout)["outputs"][0]["data"] == [1.0], done.stderr


def replica(up: Up, model: str) -> psutil.Process:
    done = millrace("status", "--json", folder=up.folder, env=up.env)
    [found] = [row for row in json.loads(done.stdout) if row["part"] == "replica" and row["model"] == f"{model}@1"]
    return psutil.Process(found["pid"])


def seconds_of_threads(process: psutil.Process) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


@pytest.mark.parametrize("model", ["torch", "numpy"])
def test_a_model_computes_with_the_number_of_threads_in_the_settings(installation: tuple[Up, int], model: str) -> None:
    up, threads = installation
    ask(up, model, ONCE)
    process = replica(up, model)
    before = seconds_of_threads(process)
    ask(up, model, OFTEN)
    after = seconds_of_threads(process)
    assert set(after) <= set(before), "threads were created during the computation"
    spent = {number: seconds - before[number] for number, seconds in after.items()}
    busy = [seconds for seconds in spent.values() if seconds > max(spent.values()) / 4]
    assert len(busy) == threads, spent


def test_every_process_starts_with_limits_on_threads_and_memory(installation: tuple[Up, int]) -> None:
    up, _ = installation
    parts = psutil.Process(up.process.pid).children()
    assert {part.environ().get(name) for part in parts for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}
    assert {replica(up, model).environ()["MALLOC_TRIM_THRESHOLD_"] for model in ("numpy", "torch")} == {str(1 << 30)}


def faults(native: Mapping[str, str]) -> int:
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment(**native), capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads these variables")
def test_freed_buffers_of_a_model_are_reused() -> None:
    assert 10 * faults(replica_environment(1)) < faults(pools(1))


def test_a_part_that_is_started_by_hand_limits_its_own_threads(tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    command = [
        sys.executable,
        "-m",
        "deploy.part",
        str(tmp_path / "shop/millrace.yaml"),
        "replica",
        "hello",
        "1",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as started:
        try:
            until = time.monotonic() + WITHIN_S
            while "OMP_NUM_THREADS" not in psutil.Process(started.pid).environ():
                assert started.poll() is None
                assert time.monotonic() < until
        finally:
            started.terminate()
