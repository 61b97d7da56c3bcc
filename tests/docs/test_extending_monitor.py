"""docs/extending/monitor.md is true: its package posts an alert for predictions that failed."""

from __future__ import annotations

import asyncio
import importlib
import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.channels import Channels
from broker.protocol.header import Status
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.sqlite.adapter import SqliteBroker
from monitors.run import MonitorSettings, run
from tests.installed_package import installed_package
from tests.monitors.events import ended, write
from tests.waiting import until

TEXT = (Path(__file__).parents[2] / "docs/extending/monitor.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL))
PROJECT = tomllib.loads(BLOCKS["toml"])["project"]
DECLARED = endpoint_declared(read_endpoint({"endpoint": "fraud", "arms": {"a": "trees@1"}}, source="test"), "test")
ACCEPTED = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


async def test_the_example_posts_alerts_and_has_checkpoints_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        match = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        posted.append(await reader.readexactly(int(match[1]) if match else 0))
        writer.write(ACCEPTED)
        await writer.drain()
        writer.close()

    webhook = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = webhook.sockets[0].getsockname()[1]
    registry, stop, folder = CollectorRegistry(), asyncio.Event(), tmp_path / "checkpoints"
    with installed_package(
        tmp_path / "site", PROJECT["name"], {"acme_alerts": BLOCKS["python"]}, PROJECT["entry-points"]
    ):
        monkeypatch.setattr(importlib.import_module("acme_alerts"), "WEBHOOK", f"http://127.0.0.1:{port}/alerts")
        async with webhook, SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
            settings = MonitorSettings(instance="monitor-1", folder=folder)
            running = asyncio.create_task(run(broker, settings, registry, stop))
            await broker.declare(broker.channels.declared)
            await broker.append(broker.channels.declared, [DECLARED])
            await write(broker, [ended(), ended(status=Status.FAILED), ended(status=Status.FAILED)])
            await until(lambda: registry.get_sample_value("acme_alerts_total") == 1)
            await until(lambda: registry.get_sample_value("millrace_monitor_rows_total", {"endpoint": "fraud"}) == 3)
            stop.set()
            await running
    assert posted == [b'{"text": "endpoint fraud: 2 predictions failed"}']
    assert (folder / "fraud.json").is_file()
    assert (folder / "alerts" / "fraud.json").is_file()
