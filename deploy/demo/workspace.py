"""The workspace of one demonstration: a fresh folder with settings, and the output of its processes."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from deploy.demo.folder import write_settings
from deploy.hosts import free_port
from deploy.wiring import Installation

HOST = "127.0.0.1"
HTTP_PORT = 8000  # Triton's ports
METRICS_PORT = 8002
LOG_LINES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoWorkspace:
    """The installation of one demonstration, its flags by dotted key, and the file with its processes' output."""

    installation: Installation
    overrides: dict[str, str]
    log: Path


def check_broker(workspace: DemoWorkspace) -> None:
    """Raise Unreachable if no broker answers, before the models are trained."""
    uvloop.run(_ping(workspace.installation))


async def _ping(installation: Installation) -> None:
    async with installation.broker() as broker:
        await broker.ping()


@contextmanager
def fresh_folder(*, keep: bool) -> Iterator[Path]:
    """Create a temporary folder; remove it afterwards unless `keep` is set."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def create_workspace(
    folder: Path, *, broker: str, engine: str, known_ports: bool = False, more: Mapping[str, str] | None = None
) -> DemoWorkspace:
    """Write the settings into a folder; `more` are further settings, by dotted key.

    Settings that the demonstration depends on are also given as flags, so that environment variables cannot change
    them.
    """
    prefix = "millrace.demo." if known_ports else f"millrace.demo-{secrets.token_hex(3)}."
    http_port, metrics_port = (HTTP_PORT, METRICS_PORT) if known_ports else (free_port(), 0)
    path = write_settings(folder, prefix=prefix, engine=engine, http_port=http_port, metrics_port=metrics_port)
    overrides = {
        "processors.engine": engine,
        "gateway.http_port": str(http_port),
        "metrics.port": str(metrics_port),
        "gateway.host": HOST,
        **(more or {}),
    }
    if broker:
        overrides["broker.url"] = broker
    return DemoWorkspace(installation=Installation.at(path, overrides), overrides=overrides, log=folder / "demo.log")


def print_log(console: Console, log: Path) -> None:
    """Print the last lines of the processes' output, if there are any."""
    if not log.exists():
        return
    with log.open(errors="replace") as lines:
        tail = list(deque(lines, LOG_LINES))
    console.print(f"\nthe last {len(tail)} lines of the processes' log:", highlight=False)
    console.print("".join(tail), markup=False, highlight=False, soft_wrap=True)
