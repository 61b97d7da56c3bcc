"""Processes that are started with closed standard descriptors work like others."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.hosts import free_port
from tests.deploy.running import WITHIN_S, environment, eventually, millrace

CHECK = """
import os, sys
from deploy.processes.streams import open_standard_streams
open_standard_streams()
print("output")
sys.exit(0 if all(os.get_inheritable(number) for number in range(3)) and os.open("/", os.O_RDONLY) > 2 else 3)
"""
SHELL = ("/bin/sh", "-c")
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_a_closed_descriptor_is_open_and_inherited_afterwards(closed: str) -> None:
    command = [*SHELL, f"exec {sys.executable} -c '{CHECK}' {closed}"]
    assert subprocess.run(command, timeout=WITHIN_S, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("closed", CLOSED)
def test_an_installation_serves_and_stops_without_its_standard_descriptors(closed: str, tmp_path: Path) -> None:
    millrace("init", "shop", folder=tmp_path)
    port = free_port()
    env = environment(MILLRACE__GATEWAY__HTTP_PORT=str(port), MILLRACE__METRICS__PORT="0")
    command = [*SHELL, f"exec {sys.executable} -P -m deploy.cli up {closed}"]
    up = subprocess.Popen(
        command,
        cwd=tmp_path / "shop",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: up.poll() is None and is_ready(port))
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(WITHIN_S) == 0


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/hello/ready").is_success
    except httpx.TransportError:
        return False
