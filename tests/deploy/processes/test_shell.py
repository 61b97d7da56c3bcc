"""The shell of a process: its HTTP pages, and its end when the parent is gone."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from deploy.processes.shell import DIED, context_of, serve_pages
from gateway.core.metrics import GatewayMetrics
from tests.deploy.running import ROOT

PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("kind", "last"),
    [("sleeping-loop", ""), ("busy-loop", ""), ("executor", "stopped\n"), ("nowhere", "stopped\n")],
)
def test_a_process_whose_parent_was_killed_ends_even_if_it_hangs(kind: str, last: str) -> None:
    command = [sys.executable, "-m", "tests.deploy.orphan", kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        # Both processes hold this pipe: it ends when the last of them ends.
        assert parent.communicate(timeout=PATIENCE_S)[0] == last


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"), ("", "text/plain")],
)
async def test_metrics_have_the_format_that_the_scraper_accepts(accept: str, kind: str) -> None:
    context = context_of("gateway", asyncio.Event())
    GatewayMetrics(context.registry).refused("malformed")
    server = serve_pages(context, "127.0.0.1", 0)
    try:
        request = Request(f"http://127.0.0.1:{context.metrics_port}/metrics", headers={"accept": accept})
        page = await asyncio.to_thread(urlopen, request, None, 10)
        text = page.read().decode()
        page.close()
    finally:
        server.shutdown()
        server.server_close()
    assert page.headers["content-type"].startswith(kind)
    read = open_families if kind.endswith("openmetrics-text") else plain_families
    values = {(it.name, it.labels.get("reason")): it.value for family in read(text) for it in family.samples}
    assert values["millrace_gateway_refused_total", "malformed"] == 1


async def test_silent_connections_do_not_block_health_requests() -> None:
    context = context_of("gateway", asyncio.Event())
    server = serve_pages(context, "127.0.0.1", 0)
    silent = [socket.create_connection(("127.0.0.1", context.metrics_port)) for _ in range(8)]
    try:
        page = await asyncio.to_thread(urlopen, f"http://127.0.0.1:{context.metrics_port}/health/live", None, 3)
        assert page.read() == b'{"live":true}'
        page.close()
    finally:
        for connection in silent:
            connection.close()
        server.shutdown()
        server.server_close()


def test_a_process_whose_parent_is_gone_at_its_start_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    command = [sys.executable, "-m", "tests.deploy.orphan", "child", "nowhere", str(gone.pid)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (DIED, "")
    assert f"the parent process {gone.pid} is gone already" in done.stderr
