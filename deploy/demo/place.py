"""Where one demonstration runs: a fresh folder with settings, and the log of its processes."""

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
    """Where one demonstration runs."""

    installation: Installation
    overrides: dict[str, str]
    log: Path


def reach(place: DemoWorkspace) -> None:
    """Raise Unreachable now, and not once everything is trained."""
    uvloop.run(_reached(place.installation))


async def _reached(installation: Installation) -> None:
    async with installation.broker() as broker:
        await broker.ping()


@contextmanager
def fresh_folder(*, keep: bool) -> Iterator[Path]:
    """Make a folder, and remove it afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def place_in(
    folder: Path, *, broker: str, engine: str, known_ports: bool = False, more: Mapping[str, str] | None = None
) -> DemoWorkspace:
    """Write the settings; `more` are further ones, by dotted key.

    What the demonstration depends on is given as flags too, so that no variable changes it.
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
    """Print the last lines of what the processes said, if they said anything."""
    if not log.exists():
        return
    with log.open(errors="replace") as lines:
        tail = list(deque(lines, LOG_LINES))
    console.print(f"\nthe last {len(tail)} lines of the processes' log:", highlight=False)
    console.print("".join(tail), markup=False, highlight=False, soft_wrap=True)
