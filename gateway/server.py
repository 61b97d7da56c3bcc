"""uvicorn in the running event loop. The process handles signals itself, and every error is JSON."""

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
from gateway.transport.door import SWEEP_ON_S, SWEEP_S, Door

logger = logging.getLogger(__name__)

BACKLOG = 2048
EVERYWHERE = "::"
STOP_ANSWERS_S = 5  # for the last answers, which report that the gateway stops


class PendingClients(Protocol):
    """Clients that wait for answers of this gateway."""

    async def drained(self, grace_s: float) -> None:
        """Wait until no client waits, for at most `grace_s` seconds."""

    def give_up(self) -> None:
        """End every wait and refuse new ones."""


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

    `on_started` is called with the real port (`port` 0 lets the system choose). Raises Misconfigured if the port cannot
    be used.
    """
    listening = listen(host, port)
    real_port: int = listening.getsockname()[1]
    server = _Server(_config(app, core), lambda: on_started(real_port))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    sweeps = Tasks()
    sweeps.spawn(_sweep(core.door), "door")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        core.readiness.stopping = True
        server.should_exit = True
        await asyncio.gather(*[wait.drained(core.settings.grace_s) for wait in waits])
        for wait in waits:
            wait.give_up()
        await serving
    finally:
        await sweeps.cancel()
        stopping.cancel()
        serving.cancel()
        listening.close()


async def _sweep(door: Door) -> None:
    wait_s = SWEEP_S
    while True:
        await asyncio.sleep(wait_s)
        wait_s = SWEEP_ON_S if door.sweep() else SWEEP_S


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises Misconfigured with the address and a way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    both = host == EVERYWHERE and socket.has_dualstack_ipv6()
    if host == EVERYWHERE and not both:
        logger.warning("gateway.host ::: this computer cannot serve IPv4 there as well; 0.0.0.0 serves only IPv4")
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise Misconfigured(
                f"port {port} of {shown} is in use: stop the program there, or set gateway.http_port to another one"
            ) from exc
        reason = exc.strerror or exc
        raise Misconfigured(
            f"cannot listen at {shown}:{port} ({reason}): are gateway.host and gateway.http_port right?"
        ) from exc


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_started()

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
        timeout_graceful_shutdown=int(core.settings.grace_s) + STOP_ANSWERS_S,
    )
