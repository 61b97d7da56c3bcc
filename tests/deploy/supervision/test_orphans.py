"""Parts whose supervisor was killed: they end by themselves, and the next supervisor waits for them or names them."""

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
    """One whose supervisor is killed as soon as it has started its parts."""
    up = Up(shop, **SHORT)
    eventually(lambda: len(up.family()) == 5)
    yield up
    up.process.kill()
    up.process.wait()


def test_a_command_line_is_read_as_it_was_written() -> None:
    command = PartCommand(parent=17, settings=Path("/shop/millrace.yaml"), words=["replica", "hello", "1"])
    assert read_command(command_line(command)[4:]) == command


def test_parts_of_a_supervisor_that_was_killed_in_its_first_second_end_by_themselves(killed: Up) -> None:
    family = killed.family()
    killed.process.kill()
    killed.process.wait()
    assert wait_until_gone(family, 30.0) == []


def test_the_next_one_waits_for_parts_that_stop_and_becomes_ready(killed: Up) -> None:
    family = killed.family()
    killed.process.kill()
    killed.process.wait()
    again = Up(killed.folder, **SHORT)
    try:
        again.wait_for("ready   http")
        assert wait_until_gone(family, 0.1) == []
    finally:
        assert again.stop() == 0


def test_the_next_one_names_a_part_that_hangs_and_the_way_out(killed: Up) -> None:
    killed.wait_for("ready   http")
    family = killed.family()
    [router] = [one for one in family if one.cmdline()[-1] == "router"]
    router.send_signal(signal.SIGSTOP)
    killed.process.kill()
    killed.process.wait()
    try:
        again = Up(killed.folder, **SHORT)
        assert again.process.wait(WITHIN_S) == 1
        said = " ".join(again.output().split())
        assert f"router (process {router.pid})" in said
        assert f"`kill -9 {router.pid}`" in said
        assert "Traceback" not in said
    finally:
        router.kill()
    assert wait_until_gone(family, 30.0) == []


def test_a_part_that_was_started_by_hand_is_no_orphan(shop: Path) -> None:
    command = [sys.executable, "-m", "deploy.part", str(shop / "millrace.yaml"), "learner"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: "deploy.part" in psutil.Process(process.pid).cmdline())
        assert find_orphans(shop / "millrace.yaml") == []
        process.kill()
