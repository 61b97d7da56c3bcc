"""Runs the real `millrace` in a folder: commands to their end, and `millrace up` until it is stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import psutil

from broker.channels import Channels
from broker.connect import connect
from deploy.hosts import free_port

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
WITHIN_S = 60.0
TEMPLATE = multiprocessing.get_context("forkserver")
TEMPLATE.set_forkserver_preload(["tests.deploy.forkserver_preload", __name__])


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without settings except these, in which `millrace` runs from this checkout."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}  # noqa: TID251 - a child's
    return {**outer, "PATH": f"{BIN}:{outer['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}


def millrace(
    *words: str, folder: Path, env: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a fork of a process that has imported all modules."""
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3)]
        files[0].write(text)
        files[0].seek(0)
        streams = [DupFd(file.fileno()) for file in files]
        process = TEMPLATE.Process(target=_run, args=(words, str(folder), dict(env or environment()), streams))
        process.start()
        process.join(WITHIN_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        output, problems = [(file.seek(0), file.read())[1] for file in files[1:]]
    assert process.exitcode != -signal.SIGKILL, f"millrace {' '.join(words)} did not end:\n{output}{problems}"
    return subprocess.CompletedProcess(words, process.exitcode or 0, output, problems)


def _run(words: Sequence[str], folder: str, env: Mapping[str, str], streams: Sequence[Any]) -> None:
    """Run the command in this fork, with its own folder, environment and streams."""
    from deploy.cli.main import main  # imported already by the fork server

    os.chdir(folder)
    os.environ.clear()  # noqa: TID251 - as above
    os.environ.update(env)  # noqa: TID251 - as above
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    sys.argv = ["millrace", *words]
    main()


class Up:
    """`millrace up` in a folder, on free ports."""

    def __init__(self, folder: Path, *flags: str, **variables: str) -> None:
        self.folder = folder
        self.http_port, self.metrics_port = free_port(), free_port()
        ports = {"MILLRACE__GATEWAY__HTTP_PORT": str(self.http_port), "MILLRACE__METRICS__PORT": str(self.metrics_port)}
        self.env = environment(**{**ports, **variables})
        self._output = folder / "up.txt"
        with self._output.open("wb") as output:
            command = [sys.executable, "-P", "-m", "deploy.cli", "up", *flags]
            self.process = subprocess.Popen(command, cwd=folder, env=self.env, stdout=output, stderr=output)

    def wait_for(self, text: str) -> None:
        """Wait until the output contains `text`; fails with the whole output after WITHIN_S seconds."""
        until = time.monotonic() + WITHIN_S
        while text not in self.output():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"no {text!r} in the output of millrace up:\n{self.output()}")
            time.sleep(0.05)

    def output(self) -> str:
        """The output so far."""
        return self._output.read_text("utf-8", "replace")

    def family(self) -> list[psutil.Process]:
        """All descendants of this process."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WITHIN_S)


def eventually(true: Callable[[], bool]) -> None:
    """Wait until a condition is true; fails after WITHIN_S seconds."""
    until = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_until_gone(processes: Sequence[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait for the end of processes; returns those that still run after `limit_s` seconds."""
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    return list(alive)


async def remove_channels(url: str, prefix: str, models: Mapping[str, int], endpoints: Sequence[str]) -> None:
    """Delete the channels of an installation with these models (and their newest versions) and endpoints."""
    channels = Channels(prefix)
    inputs = [channels.inputs(model, version) for model, newest in models.items() for version in range(1, newest + 1)]
    names = [*models, *endpoints]
    kinds = (channels.requests, channels.results, channels.events)
    async with connect(url, channels) as broker:
        for channel in (*inputs, *map(channels.retry, inputs), *[kind(name) for kind in kinds for name in names]):
            await broker.delete(channel)
        await broker.delete(channels.declared)
        await broker.delete(channels.status)


def has(program: str) -> bool:
    """Return True if a program is installed."""
    return shutil.which(program) is not None
