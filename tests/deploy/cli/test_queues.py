"""`millrace queues` gives existing queues new limits and keeps their messages."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from broker.base import Broker
from broker.channels import Channels, Limits
from broker.connect import connect
from broker.messages import Message
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from tests.deploy.running import millrace
from tests.servers import rabbitmq_url

SETTINGS = """\
version: 1
prefix: {prefix}
broker: {{url: "{url}", limits: {{requests: {requests}, size: 1MiB}}}}
"""


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A RabbitMQ with an endpoint's queue of older limits, and settings in the test's folder."""
    channels = Channels(f"q{uuid4().hex[:10]}.")
    text = SETTINGS.format(prefix=channels.prefix, url=rabbitmq_url(), requests=50)
    (tmp_path / "millrace.yaml").write_text(text)
    endpoint = read_endpoint({"endpoint": "e", "arms": {"v1": "m@1"}}, source="test")
    queue = channels.requests("e")
    async with connect(rabbitmq_url(), channels) as broker:
        await broker.declare(channels.declared)
        await broker.append(channels.declared, [endpoint_declared(endpoint, "test")])
        await broker.declare(queue, Limits(messages=40, bytes=1 << 20))
        await broker.publish([Message(queue=queue, body=b"%d" % at) for at in range(30)])
        broker.upkeep.forget(queue)
        yield broker
        for channel in (queue, channels.declared, channels.status, channels.dead(queue)):
            await broker.delete(channel)


async def queues(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(millrace, "queues", *words, folder=folder)


async def test_migrate_gives_existing_queues_new_limits(broker: Broker, tmp_path: Path) -> None:
    checked = await queues(tmp_path, "check", "--json")
    assert checked.returncode == 1
    assert "x-max-length is 40 and should be 50" in checked.stdout
    refused = await queues(tmp_path, "migrate")
    assert (refused.returncode, "add --yes" in refused.stderr) == (2, True)
    migrated = await queues(tmp_path, "migrate", "--yes")
    assert (migrated.returncode, "30 messages kept, 0 lost" in migrated.stdout) == (0, True)
    assert (await broker.depth(broker.channels.requests("e"))).messages == 30
    again = await queues(tmp_path, "check")
    assert (again.returncode, again.stdout.strip()) == (0, "queue  differs")


async def test_a_queue_with_more_messages_than_the_new_limit_is_not_migrated(broker: Broker, tmp_path: Path) -> None:
    queue, settings = broker.channels.requests("e"), tmp_path / "millrace.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("requests: 50", "requests: 20"))
    refused = await queues(tmp_path, "migrate", "--yes")
    assert refused.returncode == 1
    assert f"{queue} holds 30 messages, and its new limit is 20" in " ".join(refused.stderr.split())
    assert (await broker.depth(queue)).messages == 30
    assert not await broker.exists(f"{queue}.migrating")
    settings.write_text(text)
    migrated = await queues(tmp_path, "migrate", "--yes")
    assert (migrated.returncode, "30 messages kept, 0 lost" in migrated.stdout) == (0, True)
