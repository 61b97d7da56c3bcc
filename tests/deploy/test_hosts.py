"""Hosts in settings and in URLs, and free ports."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from deploy.hosts import bare, free_port, host_and_port, is_loopback, reachable_host
from deploy.processes.shell import Context, serve_pages


@pytest.mark.parametrize(
    ("written", "read", "loopback", "url"),
    [
        ("127.0.0.1", "127.0.0.1", True, "127.0.0.1:80"),
        ("[::1]", "::1", True, "[::1]:80"),
        ("::1", "::1", True, "[::1]:80"),
        ("::", "::", False, "[::]:80"),
        ("localhost", "localhost", True, "localhost:80"),
        ("2001:db8::7", "2001:db8::7", False, "[2001:db8::7]:80"),
        ("a.example", "a.example", False, "a.example:80"),
    ],
)
def test_a_host_is_parsed_and_formatted(written: str, read: str, loopback: bool, url: str) -> None:
    assert (bare(written), is_loopback(read), host_and_port(read, 80)) == (read, loopback, url)


@pytest.mark.parametrize("host", ["::", "0.0.0.0", ""])  # noqa: S104 - only recognized
def test_a_wildcard_host_is_reached_at_loopback(host: str) -> None:
    assert reachable_host(host) == "127.0.0.1"
    assert reachable_host("::1") == "::1"


def test_a_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [free_port() for _ in range(50)]
    assert max(ports) < lowest


def test_a_free_port_is_none_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(random, "sample", lambda ports, number: [taken, free])
        assert free_port() == free
        monkeypatch.setattr(random, "sample", lambda ports, number: [taken])
        with pytest.raises(OSError, match="none is free"):
            free_port()


@pytest.mark.parametrize(("host", "asked"), [("::1", ["[::1]"]), ("::", ["[::1]", "127.0.0.1"])])
async def test_metrics_are_served_over_ipv6(host: str, asked: list[str]) -> None:
    context = Context("part-1", CollectorRegistry(), asyncio.Event())
    server = serve_pages(context, host, 0)
    try:
        for at in asked:
            page = await asyncio.to_thread(urlopen, f"http://{at}:{context.metrics_port}/health/live", None, 10)
            assert page.read() == b'{"live":true}'
            page.close()
    finally:
        server.shutdown()
        server.server_close()
