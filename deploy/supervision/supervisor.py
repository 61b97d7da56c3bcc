"""The supervisor of `millrace up`: runs all parts as processes on this machine, restarts them, stops them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

from broker.errors import Unavailable
from broker.support.backoff import Backoff
from deploy.hosts import host_and_port
from deploy.operations.watch import DeclarationWatch
from deploy.processes.native import pools
from deploy.processes.shell import MISCONFIGURED
from deploy.settings import child_environment
from deploy.supervision.lock import data_folder_lock
from deploy.supervision.orphans import wait_for_orphans
from deploy.wiring import PARTS, Installation

logger = logging.getLogger(__name__)

EVERY_S = 0.1
PAUSE_FIRST_S = 0.5
PAUSE_LONGEST_S = 10.0
HEALTHY_AFTER_S = 30.0
GRACE_S = 25.0
DECLARED_S = 10.0
STOP_ORDER = ("gateway", "router", "processors", "learner", "monitors")
READY = "/v2/health/ready"


@dataclass(slots=True)
class Child:
    """The process of one part, and the time and pause of its next start (monotonic seconds)."""

    part: str
    process: asyncio.subprocess.Process | None = None
    started_s: float = 0.0
    not_before_s: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=PAUSE_FIRST_S, longest_s=PAUSE_LONGEST_S))
    restarts: int = -1


class Supervisor:
    """Starts the parts, restarts those that die, and stops all of them, intake first."""

    def __init__(self, installation: Installation, overrides: Mapping[str, str], output: IO[str] | None = None) -> None:
        """`overrides` are passed on to the parts; `output` receives their output (this process's streams if None)."""
        self._installation = installation
        self._output = output
        self._overrides = dict(overrides)
        self.children = {part: Child(part) for part in PARTS}
        self.was_ready = False
        """True once the installation has been ready: from then on wrong settings of a part do not stop the others."""
        self.begun = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set.

        Raises Unavailable if another supervisor has the data folder, or if a part ends with wrong settings before the
        installation was ready.
        """
        with data_folder_lock(self._installation.settings.data_folder):
            await wait_for_orphans(self._installation, stop)
            await self._run(stop)

    async def _run(self, stop: asyncio.Event) -> None:
        settings = self._installation.settings
        async with self._installation.broker() as broker:
            await broker.declare(broker.channels.declared)
            await broker.declare(broker.channels.status)
            watch = DeclarationWatch(broker, settings.folder, settings.endpoints)
            watching = asyncio.create_task(watch.run(), name="endpoints")
            self.begun.set()
            try:
                await self._until_declared(watch, watching)
                await self._keep(stop, watching)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await self._stop_all()

    async def _until_declared(self, watch: DeclarationWatch, watching: asyncio.Task[None]) -> None:
        """Wait until the endpoint files are declared, for at most DECLARED_S seconds.

        A gateway that is ready then has all endpoints.
        """
        declared = asyncio.create_task(watch.has_published.wait(), name="endpoints declared")
        await asyncio.wait((declared, watching), timeout=DECLARED_S, return_when=asyncio.FIRST_COMPLETED)
        declared.cancel()

    async def _keep(self, stop: asyncio.Event, watch: asyncio.Task[None]) -> None:
        while not stop.is_set():
            if watch.done():
                await watch  # raises the error that ended it
            await self._restart_dead()
            try:
                async with asyncio.timeout(EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _restart_dead(self) -> None:
        now = time.monotonic()
        for child in self.children.values():
            if child.process is not None and child.process.returncode is not None:
                self._note_death(child, now)
            if child.process is None and now >= child.not_before_s:
                await self._start(child, now)

    async def _start(self, child: Child, now: float) -> None:
        command = self._installation.part_command(child.part)
        child.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=child_environment(self._overrides, pools(1)),
            start_new_session=True,  # otherwise Ctrl-C in a terminal would stop all parts at once, not in order
        )
        child.started_s = now
        child.restarts += 1

    def _note_death(self, child: Child, now: float) -> None:
        code = child.process.returncode if child.process else None
        if code == MISCONFIGURED and not self.was_ready:
            raise Unavailable(f"{child.part} cannot start: the reason is in its log lines above")
        if now - child.started_s > HEALTHY_AFTER_S:
            child.backoff.reset()
        pause_s = child.backoff.next_s()
        logger.warning("%s ended with exit status %s; it is restarted in %.1f s", child.part, code, pause_s)
        child.process = None
        child.not_before_s = now + pause_s

    async def _stop_all(self) -> None:
        """Stop the parts in the order of the data flow, so that each part can still pass its work on."""
        for part in STOP_ORDER:
            process = self.children[part].process
            if process is None or process.returncode is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
            except TimeoutError:
                logger.warning("%s did not stop within %.0f s: it is killed, its work is requeued", part, GRACE_S)
                process.kill()
                await process.wait()


async def wait_until_ready(
    port: int, host: str, limit_s: float, still: Callable[[], bool] = lambda: True, path: str = READY
) -> None:
    """Wait until the gateway answers `path` with 200, while `still` holds.

    Raises Unavailable with the gateway's last answer after `limit_s` seconds.
    """
    began = time.monotonic()
    last = "nothing listens there yet"
    while still():
        try:
            ready, last = await _get(host, port, path)
        except OSError:
            ready = False
        if ready:
            return
        waited_s = time.monotonic() - began
        if waited_s > limit_s:
            raise Unavailable(f"http://{host_and_port(host, port)}{path} is not ready after {waited_s:.0f} s: {last}")
        await asyncio.sleep(EVERY_S)


async def _get(host: str, port: int, path: str) -> tuple[bool, str]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host_and_port(host, port)}\r\nConnection: close\r\n\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(), 5.0)).decode("utf-8", "replace")
    except TimeoutError:
        return False, "the gateway does not answer"
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return " 200 " in head.split("\r\n")[0], body[:500]
