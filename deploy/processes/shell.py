"""The shell of every process: event loop, signals, log lines, `/metrics` and `/health`."""

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

logger = logging.getLogger("millrace")

FAILED = 1
MISCONFIGURED = 2
DIED = 70
PARENT_EVERY_S = 1.0
GRACE_S = 25.0
PAGE_WITHIN_S = 5.0  # the limit for receiving the request for a page and for sending the page
PAGE_CONNECTIONS = 32
# A batch creates and frees hundreds of request objects. With Python's default of 700 the collector would run all the
# time (measured: a third of a processor's CPU time).
GC_THRESHOLD = (50_000, 20, 50)

Page = Callable[[], tuple[str, bytes]]
"""Returns the content type and the body of a page of a process's own HTTP server."""


@dataclass(slots=True)
class Context:
    """The surroundings of a part: its instance name, metrics registry, stop event and HTTP pages."""

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
    """Run `main` until it ends or a signal stops it; returns the exit status.

    With a `parent` pid the process stops when the parent is gone. A process that has not stopped `grace_s` seconds
    later is ended, even if it hangs. The parent should pass its pid: imports take about a second, and a parent that
    died during them would be replaced by another process in `os.getppid()`.
    """
    write_logs(part)
    gc.set_threshold(*GC_THRESHOLD)
    if parent is not None and os.getppid() != parent:
        logger.warning("the parent process %d is gone already: this process does not start", parent)
        return DIED
    try:
        return uvloop.run(_run(part, main, host, port, parent, grace_s))
    except Misconfigured as exc:
        logger.error("%s", exc)  # noqa: TRY400 - a traceback would hide the message
        return MISCONFIGURED
    except MillraceError as exc:
        logger.error("%s", exc)  # noqa: TRY400 - as above
        return FAILED


async def _run(
    part: str, main: Callable[[Context], Awaitable[None]], host: str, port: int, parent: int | None, grace_s: float
) -> int:
    context = context_of(part, stop_on_signals())
    loop = asyncio.get_running_loop()
    died: list[str] = []

    def on_error(_: asyncio.AbstractEventLoop, trouble: dict[str, Any]) -> None:
        """Log the death of a background task and end the process."""
        logger.error("%s", trouble.get("message", "an error in the event loop"), exc_info=trouble.get("exception"))
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
    """Create the context of a part in this process."""
    return Context(_instance(part), _registry(), stop)


def stop_on_signals() -> asyncio.Event:
    """Return an event that is set by SIGTERM and by Ctrl-C."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _follow_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, parent: int, grace_s: float) -> None:
    """Stop when the parent is gone; end the process if it has not stopped `grace_s` seconds later.

    This runs in its own thread. A model may hang in the event loop, in an executor or at exit, and the process would
    then keep its deliveries for ever, because no supervisor is left to kill it.
    """

    def stop_now() -> None:
        logger.warning("the parent process is gone: this process stops within %.0f s", grace_s)
        stop.set()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_EVERY_S)
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop_now)
        time.sleep(grace_s)
        os._exit(DIED)  # no log line: the thread that hangs may hold the lock of the logging module

    threading.Thread(target=follow, name="parent", daemon=True).start()


def _instance(part: str) -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:24]
    return f"{part}-{host}-{os.getpid()}-{secrets.token_hex(3)}"


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_LogCollector())
    return registry


class _LogCollector(Collector):
    """Metrics of the logs that a process reads, the same in every process."""

    def collect(self) -> Iterable[Metric]:
        """Yield the number of skipped records, by kind, and the offset of this machine's clock."""
        skipped = CounterMetricFamily(
            "millrace_records_skipped", "Malformed records that were skipped, by kind.", labels=("kind",)
        )
        for kind, number in list(SKIPPED.counts.items()):
            skipped.add_metric((kind,), number)
        yield skipped
        yield GaugeMetricFamily(
            "millrace_clock_ahead_seconds",
            "How far this machine's clock is ahead of the other machines' clocks.",
            value=CLOCKS.own_difference_s,
        )


class _QuietHandler(WSGIRequestHandler):
    timeout = PAGE_WITHIN_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: scrapes come every few seconds."""


class _PageServer(ThreadingMixIn, WSGIServer):
    """Serves each connection in its own thread, at most PAGE_CONNECTIONS at a time.

    A silent client must not block the requests for `/health`.
    """

    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self._free = threading.BoundedSemaphore(PAGE_CONNECTIONS)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, or close it if too many are open."""
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


class _Ipv6PageServer(_PageServer):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Accept IPv4 clients too, at `::`."""
        if socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve_pages(context: Context, host: str, port: int) -> WSGIServer:
    """Serve a process's pages from another thread; sets `context.metrics_port`."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, body = _page(context, environ.get("PATH_INFO", ""), environ.get("HTTP_ACCEPT", ""))
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    try:
        server_class = _Ipv6PageServer if ":" in host else _PageServer
        server = make_server(host, port, app, server_class=server_class, handler_class=_QuietHandler)
    except OSError as exc:
        raise Misconfigured(
            f"{shown(host, port)} cannot be listened on ({exc.strerror}): set metrics.port to another, or 0"
        ) from exc
    context.metrics_port = server.server_port
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _page(context: Context, path: str, accept: str) -> tuple[str, str, bytes]:
    if path == "/metrics":
        write, kind = choose_encoder(accept)  # OpenMetrics, if the scraper accepts it
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


class _JsonFormatter(logging.Formatter):
    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Format a log record as one line of JSON."""
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
    """Configure logging to standard error, or to `stream`: plain lines on a terminal, JSON elsewhere."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if stream.isatty():
        handler.setFormatter(logging.Formatter(f"%(asctime)s {part:10} %(levelname)s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_JsonFormatter(part))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy, level in (("pika", logging.CRITICAL), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logging.getLogger(noisy).setLevel(level)  # the adapter raises pika's errors as ours
