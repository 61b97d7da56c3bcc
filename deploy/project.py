"""The files of a new project, as `millrace init` writes them: settings and a hello model."""

from __future__ import annotations

from pathlib import Path

from broker.errors import Misconfigured

SETTINGS = """\
version: 1
environment: dev
data: data                    # embedded broker, checkpoints
repository: {url: models}     # drop models here: <name>/config.pbtxt and <name>/<version>/model.py or model.pt
# broker: {url: amqp://guest:guest@localhost}
# processors: {engine: ray}
gateway: {host: 127.0.0.1, http_port: 8000}
metrics: {port: 8002}
endpoints: endpoints/*.yaml   # watched; a model that no endpoint claims is served under its own name
"""

CONFIG = """\
name: "hello"
backend: "python"
max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "sum" data_type: TYPE_FP32 dims: [ 1 ] } ]
version_policy: { all {} }  # every version is served; without this line the newest one alone is, as in Triton
"""

MODEL = '''\
"""The hello model: the sum of each row."""

import numpy as np


class Model:
    """Takes and returns dicts of arrays; the first axis is the batch."""

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"sum": inputs["x"].sum(axis=1, keepdims=True)}
'''

FILES = {"millrace.yaml": SETTINGS, "models/hello/config.pbtxt": CONFIG, "models/hello/1/model.py": MODEL}


def write_project(folder: Path) -> list[Path]:
    """Write the files and return their paths; raises Misconfigured if one of them exists already."""
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise Misconfigured(f"{folder / taken[0]} exists already: choose a new folder")
    (folder / "endpoints").mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        written.append(path)
    return written
