"""The models of the kill tests: each returns its input, except for the numbers POISON and GUILTY."""

from __future__ import annotations

from pathlib import Path

from processors.repository import write_version

POISON = 666
GUILTY = 777

CONFIG = """\
name: "%s"
backend: "python"
max_batch_size: %d
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""

STEADY = """\
import time


class Model:
    def infer(self, inputs):
        time.sleep(0.008)
        return {"y": inputs["x"]}
"""

SLOW = """\
import time


class Model:
    def infer(self, inputs):
        time.sleep(0.05)
        return {"y": inputs["x"]}
"""

POISONED = f"""\
import os
import time


class Model:
    def infer(self, inputs):
        if (inputs["x"] == {POISON}).any():
            os._exit(13)
        time.sleep(0.004)
        return {{"y": inputs["x"]}}
"""

PICKY = f"""\
class Model:
    def infer(self, inputs):
        if (inputs["x"] == {GUILTY}).any():
            raise ValueError("not this one")
        return {{"y": inputs["x"]}}
"""

FLAKY = f"""\
class Model:
    def __init__(self):
        self.failures = 0

    def infer(self, inputs):
        guilty = (inputs["x"] == {GUILTY}).any()
        alone = len(inputs["x"]) == 1
        if guilty and (not alone or self.failures < 2):
            self.failures += alone
            raise ValueError("not yet")
        return {{"y": inputs["x"]}}
"""


def write_model(repository: Path, name: str, source: str, max_batch: int) -> None:
    """Write version 1 of a model to the repository."""
    write_version(repository, name, 1, {"model.py": source.encode()}, config=CONFIG % (name, max_batch))
