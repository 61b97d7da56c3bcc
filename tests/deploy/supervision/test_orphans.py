"""Parts of a killed supervisor end by themselves; the next supervisor waits for them, or names those that hang."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.processes.command import PartCommand, command_line, read_command
from deploy.supervision.orphans import find_orphans
from tests.deploy.running import WITHIN_S, Up, eventually, millrace, wait_until_gone

SHORT = {"MILLRACE__GATEWAY__GRACE": "100ms", "MILLRACE__PROCESSORS__GRACE": "100ms"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    millrace("init", "shop", folder=tmp_path)
    return tmp_path / "shop"


@pytest.fixture
def killed(shop: Path) -> Iterator[Up]:
    """An installation that has just started its parts, for a test that kills the supervisor."""
    up = Up(shop, **SHORT)
    eventually(lambda: len(up.family()) == 5)
    yield up
    up.process.kill()
    up.process.wait()


def test_a_command_line_is_parsed_as_it_was_written() -> None:
    command = PartCommand(parent=17, settings=Path("/shop/millrace.yaml"), words=["replica", "hello", "1"])
    assert read_command(command_line(command)[4:]) == command


def test_parts_end_by_themselves_if_the_supervisor_is_killed_in_its_first_second(killed: Up) -> None:
    family = killed.family()
    killed.process.kill()
    killed.process.wait()
    assert wait_until_gone(family, 30.0) == []


def test_the_next_supervisor_waits_for_orphans_that_stop_and_becomes_ready(killed: Up) -> None:
    family = killed.family()
    killed.process.kill()
    killed.process.wait()
    again = Up(killed.folder, **SHORT)
    try:
        again.wait_for("ready   http")
        assert wait_until_gone(family, 0.1) == []
    finally:
        assert again.stop() == 0


def test_the_next_supervisor_names_an_orphan_that_hangs_and_how_to_end_it(killed: Up) -> None:
    killed.wait_for("ready   http")
    family = killed.family()
    [router] = [one for one in family if one.cmdline()[-1] == "router"]
    router.send_signal(signal.SIGSTOP)
    killed.process.kill()
    killed.process.wait()
    try:
        again = Up(killed.folder, **SHORT)
        assert again.process.wait(WITHIN_S) == 1
        output = " ".join(again.output().split())
        assert f"router (process {router.pid})" in output
        assert f"`kill -9 {router.pid}`" in output
        assert "Traceback" not in output
    finally:
        router.kill()
    assert wait_until_gone(family, 30.0) == []


def test_a_part_that_was_started_by_hand_is_not_an_orphan(shop: Path) -> None:
    command = [sys.executable, "-m", "deploy.part", str(shop / "millrace.yaml"), "learner"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: "deploy.part" in psutil.Process(process.pid).cmdline())
        assert find_orphans(shop / "millrace.yaml") == []
        process.kill()
