"""uvicorn in the loop that already runs. Signals belong to the process's shell, errors are JSON to the last byte."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.answers import error_body
from broker.errors import Misconfigured
from broker.ids import new_uid, now_us, uid_text
from gateway.asgi import App
from gateway.core import Core

BACKLOG = 2048
KEEP_ALIVE_S = 75
LAST_WORDS_S = 5  # for the answers that say that the gateway stops


class Waits(Protocol):
    """Clients that wait for their answers here."""

    async def drained(self, grace_s: float) -> None:
        """Wait until nobody waits, at most `grace_s`."""

    def give_up(self) -> None:
        """End every wait, and let nobody start one."""


async def serve(
    core: Core, app: App, waits: Sequence[Waits], *, host: str, port: int, stop: asyncio.Event,
    on_started: Callable[[int], None],
) -> None:  # fmt: skip
    """Serve until `stop`, then take no new connection and wait for the pending answers, at most the grace.

    `on_started` hears the real port (0 lets the system choose). Raises Misconfigured when the port cannot be had.
    """
    listening = listen(host, port)
    real_port: int = listening.getsockname()[1]
    server = _Server(_config(app, core.settings.grace_s), lambda: on_started(real_port))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        core.readiness.stopping = True
        server.should_exit = True
        await asyncio.gather(*[wait.drained(core.settings.grace_s) for wait in waits])
        for wait in waits:
            wait.give_up()
        await serving
    finally:
        stopping.cancel()
        serving.cancel()
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises Misconfigured naming the address and the way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise Misconfigured(
                f"port {port} of {host} is in use: stop what listens there, or set gateway.http_port to another one"
            ) from exc
        reason = exc.strerror or exc
        raise Misconfigured(
            f"cannot listen at {host}:{port} ({reason}): are gateway.host and gateway.http_port right?"
        ) from exc


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, whose answer to bytes that are no HTTP is JSON with a request id, too."""

    def _unsupported_upgrade_warning(self) -> None:
        """The parser reads nothing behind an `Upgrade` header, no body and no next request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        body = error_body(msg)
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"millrace-request-id: {uid_text(new_uid(now_us()))}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


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


def _config(app: App, grace_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="none", http=_Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=None, backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=int(grace_s) + LAST_WORDS_S,
    )  # fmt: skip
