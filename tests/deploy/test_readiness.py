"""When an installation says that it is ready, all ways into it are open."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.ids import now_us
from broker.messages import Message
from broker.status import Announcement, write_announcement
from deploy.readiness import wait_until_served
from deploy.supervisor import Supervisor
from deploy.wiring import Installation
from tests.deploy.running import free_port

CONFIG = """\
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


async def test_who_is_ready_takes_a_queue_clients_request_before_the_router_has_looked(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "millrace.yaml").write_text(f"gateway: {{http_port: {port}}}\n")
    (tmp_path / "models/hello/1").mkdir(parents=True)
    (tmp_path / "models/hello/1/model.py").write_text("class Model: pass\n")
    (tmp_path / "models/hello/config.pbtxt").write_text(CONFIG)
    place = Installation.at(tmp_path / "millrace.yaml")
    supervisor = Supervisor(place, {})
    supervisor.children.clear()  # no part of ours: the replica is a record, the gateway an answer, the router late
    gateway = await asyncio.start_server(_say_yes, "127.0.0.1", port)
    async with gateway, place.broker() as broker:
        await broker.declare(broker.channels.status)
        said = Announcement(instance="r", part="replica", state="ready", at_us=now_us(), model="hello", version=1)
        await broker.append(broker.channels.status, [write_announcement(said)])
        assert await wait_until_served(place, supervisor, 10.0, lambda: True) == []
        (outcome,) = await broker.publish([Message(queue=broker.channels.requests("hello"), body=b"{}")])
    assert outcome.safe


async def _say_yes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await writer.drain()
    writer.close()
