"""An installation is ready only when HTTP clients and queue clients can send requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.messages import Message
from broker.protocol.ids import now_us
from broker.records.status import Announcement, write_announcement
from deploy.hosts import free_port
from deploy.supervision.readiness import wait_until_served
from deploy.supervision.supervisor import Supervisor
from deploy.wiring import Installation

PATIENCE_S = 20.0
CONFIG = """\
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


async def test_an_installation_is_not_ready_before_the_request_queues_exist(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "millrace.yaml").write_text(f"gateway: {{http_port: {port}}}\n")
    (tmp_path / "models/hello/1").mkdir(parents=True)
    (tmp_path / "models/hello/1/model.py").write_text("class Model: pass\n")
    (tmp_path / "models/hello/config.pbtxt").write_text(CONFIG)
    installation = Installation.at(tmp_path / "millrace.yaml")
    supervisor = Supervisor(installation, {})
    supervisor.children.clear()  # the replica is an announcement, the gateway a fake server
    gateway = await asyncio.start_server(_answer_ok, "127.0.0.1", port)
    async with gateway, installation.broker() as broker:
        await broker.declare(broker.channels.status)
        announcement = Announcement(
            instance="r", part="replica", state="ready", at_us=now_us(), model="hello", version=1
        )
        await broker.append(broker.channels.status, [write_announcement(announcement)])
        waiting = asyncio.create_task(wait_until_served(installation, supervisor, PATIENCE_S, lambda: True))
        done, _ = await asyncio.wait((waiting,), timeout=1.0)
        assert not done
        await broker.declare(broker.channels.requests("hello"))  # as the router does, a little late
        assert await asyncio.wait_for(waiting, PATIENCE_S) == []
        (outcome,) = await broker.publish([Message(queue=broker.channels.requests("hello"), body=b"{}")])
    assert outcome.safe


async def _answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await writer.drain()
    writer.close()
