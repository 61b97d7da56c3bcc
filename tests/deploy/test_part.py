"""The process of a part: wrong settings and unknown parts end it with one line and exit status 2."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from deploy.processes.command import PartCommand, command_line
from tests.deploy.running import environment


@pytest.mark.parametrize("words", [["gateway"], ["replica", "hello", "1"]])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [("gateway: [", "this is not YAML"), ("gatway: {}", "did you mean 'gateway'?"), ("prefix: x", "prefix 'x'")],
)
def test_wrong_settings_are_one_line_and_exit_status_2(
    tmp_path: Path, settings: str, expected: str, words: list[str]
) -> None:
    path = tmp_path / "millrace.yaml"
    path.write_text(settings, "utf-8")
    command = command_line(PartCommand(parent=os.getpid(), settings=path, words=words))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    entry = json.loads(line)
    assert expected in entry["message"]
    assert (entry["level"], "trace" in entry) == ("error", False)


def test_an_unknown_part_is_exit_status_2_and_known_parts_are_listed(tmp_path: Path) -> None:
    command = command_line(PartCommand(parent=os.getpid(), settings=tmp_path / "millrace.yaml", words=["gatway"]))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "known parts are gateway" in done.stderr
