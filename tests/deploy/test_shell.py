"""What a process does when nobody is left who could stop it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.shell import DIED
from tests.deploy.running import ROOT

PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("kind", "last"),
    [("sleeping-loop", ""), ("busy-loop", ""), ("executor", "stopped\n"), ("nowhere", "stopped\n")],
)
def test_a_process_whose_parent_was_killed_ends_wherever_it_hangs(kind: str, last: str) -> None:
    command = [sys.executable, "-m", "tests.deploy.orphan", kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        # Both write into this pipe: it ends with the last of them.
        assert parent.communicate(timeout=PATIENCE_S)[0] == last


def test_a_process_whose_parent_was_gone_before_it_looked_starts_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    command = [sys.executable, "-m", "tests.deploy.orphan", "child", "nowhere", str(gone.pid)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (DIED, "")
    assert f"process {gone.pid}, which started this one, is gone already" in done.stderr
