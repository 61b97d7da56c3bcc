"""An installation of real processes in a folder, which a test may kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from broker.base import DELAY_LADDER_S, Broker
from broker.connect import connect
from broker.delivery.log_follower import LogFollower
from broker.messages import Record
from broker.records.declared import endpoint_declared, endpoint_withdrawn
from broker.records.endpoint import read_endpoint
from broker.records.status import Announcement, read_status
from deploy import wiring
from deploy.hosts import free_port
from tests.kill.models import write_model
from tests.waiting import until

PATIENCE_S = 60.0
GRACE_S = 25.0
LOOK_S = 0.02
DEADLINE = "110s"  # so long that no request expires

SETTINGS = """\
version: 1
prefix: %s
broker: {url: "%s"}
gateway: {http_port: %d}
metrics: {port: 0}
"""


class Installation:
    """Starts, kills and stops parts, and collects their announcements."""

    def __init__(self, folder: Path, url: str, link_url: str = "") -> None:
        """`url` is the broker's address; empty for the embedded broker in `folder`.

        If `link_url` is given, the parts connect to it instead: the same broker through a proxy.
        """
        self.http_port = free_port()
        path = folder / "millrace.yaml"
        path.write_text(SETTINGS % (f"k{uuid4().hex[:12]}.", link_url or url, self.http_port))
        self.folder = folder
        self.announcements: dict[str, Announcement] = {}
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        self._installation = wiring.Installation.at(path)
        self.channels = self._installation.settings.channels
        self.broker: Broker = connect(url, self.channels) if link_url else self._installation.broker()
        self._names: set[str] = set()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.broker.open()
        await self.broker.declare(self.channels.declared)
        await self.broker.declare(self.channels.status)
        following = LogFollower(self.broker, self.channels.status, 0, self._fold_status)
        self._following = asyncio.create_task(following.run(), name="status")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for part in ("gateway", "router", "processors"):
                await self.stop(part)
        finally:
            for process in self.parts.values():
                process.kill()
                process.wait()
            if self._following is not None:
                self._following.cancel()
                await asyncio.gather(self._following, return_exceptions=True)
            self._show_logs()
            for channel in self._channels():
                await self.broker.delete(channel)
            await self.broker.close()

    async def serve(self, name: str, source: str, *parts: str, max_batch: int = 32, **declaration: Any) -> None:
        """Serve a model under an endpoint of the same name, and wait until it is ready."""
        write_model(self.folder / "models", name, source, max_batch)
        await self.declare(name, f"{name}@1", **declaration)
        for part in ("processors", "router", *parts):
            self.start(part)
        await self.replica()
        await until(lambda: any(one.part == "router" and one.state == "ready" for one in self.announcements.values()))

    async def declare(self, name: str, target: str, **declaration: Any) -> None:
        """Declare an endpoint with one arm."""
        await self.broker.append(self.channels.declared, [self._declaration(name, target, declaration)])

    async def declare_as_another(self, name: str, target: str, url: str) -> None:
        """Declare an endpoint over a connection of another user."""
        async with connect(url, self.channels) as broker:
            await broker.append(self.channels.declared, [self._declaration(name, target, {})])

    def _declaration(self, name: str, target: str, declaration: Mapping[str, Any]) -> bytes:
        self._names.add(name)
        document = {"endpoint": name, "arms": {"v1": target}, "deadline": DEADLINE, **declaration}
        return endpoint_declared(read_endpoint(document, source="test"), "test")

    async def withdraw(self, name: str) -> None:
        """Withdraw an endpoint."""
        await self.broker.append(self.channels.declared, [endpoint_withdrawn(name, "test")])

    def another_broker(self) -> Broker:
        """Create another connection to the broker, not opened yet, with the parts' address."""
        return self._installation.broker()

    def start(self, part: str) -> None:
        """Start a part as a process."""
        with (self.folder / f"{part}.log").open("ab") as log:
            command = self._installation.part_command(part)
            self.parts[part] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, part: str) -> None:
        """Kill a part's process with SIGKILL, and wait for its end."""
        process = self.parts.pop(part)
        process.kill()
        process.wait()

    async def stop(self, part: str) -> None:
        """Stop a part with SIGTERM, and wait for its end."""
        process = self.parts.get(part)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, GRACE_S)
            del self.parts[part]

    async def replica(self, *, but: int = 0) -> Announcement:
        """Wait for a replica that is ready, other than the process `but`."""

        def ready() -> list[Announcement]:
            replicas = [one for one in self.announcements.values() if one.part == "replica" and one.state == "ready"]
            return [one for one in replicas if one.pid != but and is_alive(one.pid)]

        await until(lambda: bool(ready()))
        return ready()[-1]

    def replicas_ever(self) -> int:
        """The number of replica processes that have announced themselves."""
        return len({one.pid for one in self.announcements.values() if one.part == "replica"})

    async def redelivered(self) -> int:
        """The number of redelivered messages that the present replica has taken."""
        replica = await self.replica()
        async with httpx.AsyncClient(timeout=10.0) as client:
            page = (await client.get(f"http://127.0.0.1:{replica.metrics_port}/metrics")).text
        found = re.search(r"^millrace_processor_came_back_total\{.*\} (\S+)$", page, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def log(self, part: str) -> str:
        """The output of a part and its children."""
        path = self.folder / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _fold_status(self, record: Record) -> None:
        announcement = read_status(record)
        if announcement is not None:
            self.announcements[announcement.instance] = announcement

    def _show_logs(self) -> None:
        """Print the last log lines of the parts; pytest shows them if the test failed."""
        for part in ("gateway", "router", "processors"):
            for line in self.log(part).splitlines()[-60:]:
                print(f"{part}: {line[:2000]}")  # noqa: T201 - see above

    def _stored(self) -> list[str]:
        """The queue of the results store, if a gateway has created one."""
        path = self._installation.settings.data_folder / "results.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as store:
            return [self.channels.stored(identity) for (identity,) in store.execute("SELECT identity FROM store")]

    def _channels(self) -> list[str]:
        names = [self.channels.declared, self.channels.status, *self._stored()]
        names += [
            f"{self.channels.prefix}delay.{round(step_s * 1000)}" for step_s in DELAY_LADDER_S
        ]  # the names on Kafka
        names.append(f"{self.channels.prefix}limits")
        for name in self._names:
            inputs = self.channels.inputs(name, 1)
            retry = self.channels.retry(inputs)
            names += [inputs, retry, self.channels.dead(inputs), self.channels.dead(retry)]
            names += [self.channels.delay(retry, round(step_s * 1000)) for step_s in DELAY_LADDER_S]
            names += [self.channels.requests(name), self.channels.dead(self.channels.requests(name))]
            names += [self.channels.results(name), self.channels.events(name)]
        return names


def is_alive(pid: int) -> bool:
    """Return True if a process runs; a zombie does not."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill_process(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that was started by another one."""
    os.kill(pid, number)
