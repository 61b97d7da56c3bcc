"""The shell that every process runs in: the loop, signals, logs, `/metrics` and `/health`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import IO, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvloop
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.delivery.clocks import CLOCKS
from broker.errors import MillraceError, Misconfigured
from broker.records.skipped import SKIPPED
from deploy.hosts import shown

log = logging.getLogger("millrace")

FAILED = 1
MISCONFIGURED = 2
DIED = 70
PARENT_EVERY_S = 1.0
GRACE_S = 25.0
PAGE_WITHIN_S = 5.0  # a request for a page comes whole, and is read, within this time
PAGE_CONNECTIONS = 32
# Requests are made and gone by the hundred in a batch: Python's 700 would walk them all the time (measured: a third of
# a processor's CPU).
GC_THRESHOLD = (50_000, 20, 50)

Page = Callable[[], tuple[str, bytes]]
"""A page of a process's own HTTP server: its content type and its body."""


@dataclass(slots=True)
class Context:
    """What a part finds around it."""

    instance: str
    registry: CollectorRegistry
    stop: asyncio.Event
    metrics_port: int = 0
    pages: dict[str, Page] = field(default_factory=dict)
    ready: bool = False


def run_part(
    part: str,
    main: Callable[[Context], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    parent: int | None = None,
    grace_s: float = GRACE_S,
) -> int:
    """Run `main` until it ends or a signal asks it to; returns the exit status.

    With the pid of a `parent` the process stops when that one is gone, and is ended if it has not within `grace_s`,
    whatever it hangs in. The pid has to come from the parent: one that is looked up here may be another process's by
    now, because what is imported first takes a second.
    """
    write_logs(part)
    gc.set_threshold(*GC_THRESHOLD)
    if parent is not None and os.getppid() != parent:
        log.warning("process %d, which started this one, is gone already: nothing is started", parent)
        return DIED
    try:
        return uvloop.run(_run(part, main, host, port, parent, grace_s))
    except Misconfigured as exc:
        log.error("%s", exc)  # noqa: TRY400 - a person can mend this: a traceback would only hide it
        return MISCONFIGURED
    except MillraceError as exc:
        log.error("%s", exc)  # noqa: TRY400 - as above
        return FAILED


async def _run(
    part: str, main: Callable[[Context], Awaitable[None]], host: str, port: int, parent: int | None, grace_s: float
) -> int:
    context = context_of(part, stop_on_signals())
    loop = asyncio.get_running_loop()
    died: list[str] = []

    def on_error(_: asyncio.AbstractEventLoop, trouble: dict[str, Any]) -> None:
        """A background task that dies takes its process down, loudly."""
        log.error("%s", trouble.get("message", "an error in the event loop"), exc_info=trouble.get("exception"))
        died.append(str(trouble.get("message")))
        main_task.cancel()

    loop.set_exception_handler(on_error)
    server = serve_pages(context, host, port)
    if parent is not None:
        _follow_parent(loop, context.stop, parent, grace_s)
    main_task = asyncio.ensure_future(main(context))
    try:
        await main_task
    except asyncio.CancelledError:
        if not died:
            raise
        return DIED
    finally:
        server.shutdown()
    return 0


def context_of(part: str, stop: asyncio.Event) -> Context:
    """Return the surroundings of a part in this process."""
    return Context(_instance(part), _registry(), stop)


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and Ctrl-C set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _follow_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, parent: int, grace_s: float) -> None:
    """Stop with the parent; end the process if it has not stopped within the grace.

    From a thread of its own: a model that hangs in the loop, in an executor or at the exit would keep what the
    process holds of the broker for ever, and nobody is left to kill it.
    """

    def stop_now() -> None:
        log.warning("the process that started this one is gone: it stops, within %.0f s", grace_s)
        stop.set()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop_now)
        time.sleep(grace_s)
        os._exit(DIED)  # without a word: whoever hangs may hold the lock of the logs

    threading.Thread(target=follow, name="parent", daemon=True).start()


def _instance(part: str) -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:24]
    return f"{part}-{host}-{os.getpid()}-{secrets.token_hex(3)}"


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Logs())
    return registry


class _Logs(Collector):
    """What every process knows of the logs that it reads."""

    def collect(self) -> Iterable[Metric]:
        """Return the series of records that were skipped, and of this machine's clock."""
        skipped = CounterMetricFamily(
            "millrace_records_skipped", "Records of our logs that are none, by kind.", labels=("kind",)
        )
        for kind, number in list(SKIPPED.counts.items()):
            skipped.add_metric((kind,), number)
        yield skipped
        yield GaugeMetricFamily(
            "millrace_clock_ahead_seconds",
            "How far this machine's clock is ahead of the others'.",
            value=CLOCKS.own_difference_s,
        )


class _Quiet(WSGIRequestHandler):
    timeout = PAGE_WITHIN_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Scrapes are no news."""


class _Pages(ThreadingMixIn, WSGIServer):
    """A thread for each connection, and few of them: one that is silent must not keep the others from health."""

    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self._free = threading.BoundedSemaphore(PAGE_CONNECTIONS)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, or close it if too many are served."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _OverIpv6(_Pages):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Take IPv4 clients, too, at `::`."""
        if socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve_pages(context: Context, host: str, port: int) -> WSGIServer:
    """Serve a process's pages from a thread of their own; notes the port in the context."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, body = _page(context, environ.get("PATH_INFO", ""), environ.get("HTTP_ACCEPT", ""))
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    try:
        kind = _OverIpv6 if ":" in host else _Pages
        server = make_server(host, port, app, server_class=kind, handler_class=_Quiet)
    except OSError as exc:
        raise Misconfigured(
            f"{shown(host, port)} cannot be listened on ({exc.strerror}): set metrics.port to another, or 0"
        ) from exc
    context.metrics_port = server.server_port
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _page(context: Context, path: str, accept: str) -> tuple[str, str, bytes]:
    if path == "/metrics":
        write, kind = choose_encoder(accept)  # OpenMetrics, if the scraper takes it
        return "200 OK", kind, write(context.registry)
    if path == "/health/live":
        return "200 OK", "application/json", b'{"live":true}'
    if path == "/health/ready":
        word = b"true" if context.ready else b"false"
        return "200 OK" if context.ready else "503 Service Unavailable", "application/json", b'{"ready":%b}' % word
    if path in context.pages:
        kind, body = context.pages[path]()
        return "200 OK", kind, body
    return "404 Not Found", "application/json", b'{"error":"known pages: /metrics, /health/live, /health/ready"}'


class _Json(logging.Formatter):
    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object a line."""
        entry = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def write_logs(part: str, stream: IO[str] | None = None) -> None:
    """Log to standard error, or to `stream`: lines for people on a terminal, JSON elsewhere."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if stream.isatty():
        handler.setFormatter(logging.Formatter(f"%(asctime)s {part:10} %(levelname)s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_Json(part))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy, level in (("pika", logging.CRITICAL), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logging.getLogger(noisy).setLevel(level)  # pika's errors reach us as ours
