"""What a replica's process does with the memory that its model frees."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

FAULTS = """
import json, resource, sys
from processors.memory import keep_freed_memory
import numpy as np

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        held = [np.ones(1 << 20) for _ in range(4)]  # 8 MiB each: larger than what glibc keeps by itself
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
print(json.dumps(faults(20)))
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True, timeout=60)
    return int(json.loads(done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_buffers_that_a_model_frees_are_used_again() -> None:
    assert 10 * faults("keep") < faults("as it comes")
