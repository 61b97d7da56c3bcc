"""uvicorn in the loop that already runs. Signals belong to the process's shell, errors are JSON to the last byte."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import uvicorn

from broker.errors import Misconfigured
from broker.support.tasks import Tasks
from gateway.core.core import Core
from gateway.transport.asgi import App
from gateway.transport.connection import connection_factory
from gateway.transport.door import SWEEP_S, Door

log = logging.getLogger(__name__)

BACKLOG = 2048
EVERYWHERE = "::"
LAST_WORDS_S = 5  # for the answers that say that the gateway stops


class PendingClients(Protocol):
    """Clients that wait for their answers here."""

    async def drained(self, grace_s: float) -> None:
        """Wait until nobody waits, at most `grace_s`."""

    def give_up(self) -> None:
        """End every wait, and let nobody start one."""


async def serve(
    core: Core,
    app: App,
    waits: Sequence[PendingClients],
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_started: Callable[[int], None],
) -> None:
    """Serve until `stop`, then take no new connection and wait for the pending answers, at most the grace.

    `on_started` hears the real port (0 lets the system choose). Raises Misconfigured when the port cannot be had.
    """
    listening = listen(host, port)
    real_port: int = listening.getsockname()[1]
    server = _Server(_config(app, core), lambda: on_started(real_port))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    looking = Tasks()
    looking.spawn(_look(core.door), "door")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        core.readiness.stopping = True
        server.should_exit = True
        await asyncio.gather(*[wait.drained(core.settings.grace_s) for wait in waits])
        for wait in waits:
            wait.give_up()
        await serving
    finally:
        await looking.cancel()
        stopping.cancel()
        serving.cancel()
        listening.close()


async def _look(door: Door) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        door.look()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises Misconfigured naming the address and the way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    both = host == EVERYWHERE and socket.has_dualstack_ipv6()
    if host == EVERYWHERE and not both:
        log.warning("gateway.host ::: this computer cannot serve IPv4 there, too; 0.0.0.0 serves IPv4 alone")
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise Misconfigured(
                f"port {port} of {shown} is in use: stop what listens there, or set gateway.http_port to another one"
            ) from exc
        reason = exc.strerror or exc
        raise Misconfigured(
            f"cannot listen at {shown}:{port} ({reason}): are gateway.host and gateway.http_port right?"
        ) from exc


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._heard = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._heard()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: App, core: Core) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=connection_factory(core.door),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(core.settings.grace_s) + LAST_WORDS_S,
    )
