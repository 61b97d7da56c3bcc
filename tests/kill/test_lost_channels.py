"""Queues, logs, connections and permissions are removed while an installation serves: it goes on or reports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.kill.client import Client, body_of
from tests.kill.foreign import foreign_queue
from tests.kill.installation import Installation, is_alive
from tests.kill.models import STEADY
from tests.servers import control_rabbitmq, rabbitmq_url
from tests.waiting import until

REQUESTS = 400
NAME = "steady"


@asynccontextmanager
async def asking(installation: Installation) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the steady model, and yield an HTTP client."""
    await installation.serve(NAME, STEADY, "gateway")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{installation.http_port}", timeout=30.0) as client:
        await until(lambda: is_ready(client))
        yield client


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/v2/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def answers(client: httpx.AsyncClient) -> bool:
    """Return True if a request by HTTP is answered with 200."""
    answer = await client.post(f"/v2/models/{NAME}/infer", content=body_of(7), headers={"millrace-timeout-ms": "3000"})
    return answer.status_code == 200


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["inputs", "requests", "retry", "results"])
async def test_a_deleted_queue_is_declared_again_within_seconds(installation: Installation, kind: str) -> None:
    async with asking(installation) as http, Client(installation.broker, NAME) as client:
        await client.send(range(REQUESTS))
        await client.all_answered()
        channels = installation.channels
        inputs = channels.inputs(NAME, 1)
        queues = {"inputs": inputs, "requests": channels.requests(NAME), "retry": channels.retry(inputs)}
        queue = queues.get(kind, channels.results(NAME))
        await installation.broker.delete(queue)
        await until(lambda: answers(http), 30.0)
        await client.send(range(REQUESTS, 2 * REQUESTS))
        await client.all_answered()
        assert client.statuses == {"ok": 2 * REQUESTS}
        await until(lambda: there(installation, queue), 30.0)
        assert await is_ready(http)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["events", "status"])
async def test_a_deleted_log_does_not_stop_a_model(installation: Installation, kind: str) -> None:
    """If unconfirmed rows kept their requests unacked, the model would stop after 64 more requests."""
    async with asking(installation) as http, Client(installation.broker, NAME) as client:
        await client.send(range(REQUESTS))
        await client.all_answered()
        log = installation.channels.events(NAME) if kind == "events" else installation.channels.status
        await installation.broker.delete(log)
        for turn in range(1, 5):
            await client.send(range(turn * REQUESTS, (turn + 1) * REQUESTS))
            await client.all_answered()
        assert client.statuses == {"ok": 5 * REQUESTS}
        await until(lambda: there(installation, log), 30.0)
        await until(lambda: answers(http), 30.0)
        assert await is_ready(http)


async def there(installation: Installation, channel: str) -> bool:
    return not await installation.broker.missing([channel])


@pytest.mark.timeout(180)
async def test_an_endpoint_whose_queue_is_refused_is_reported_and_others_are_served(installation: Installation) -> None:
    async with asking(installation) as http, Client(installation.broker, NAME) as client:
        if "sqlite" in repr(installation.broker).lower():
            pytest.skip("other programs cannot create queues in the embedded broker")
        pids = {part: process.pid for part, process in installation.parts.items()}
        async with foreign_queue(installation, "later"):
            await installation.declare("later", f"{NAME}@1")
            await until(lambda: is_named(http, "later"), 30.0)
            await client.send(range(REQUESTS))
            await client.all_answered()
            assert await is_ready(http)
            answer = await http.post("/v2/models/later/infer", content=body_of(7))
            assert answer.status_code == 200  # HTTP requests do not use the refused queue
        async with Client(installation.broker, "later") as later:
            await later.send(range(REQUESTS))
            await later.all_answered()
        assert {part: process.pid for part, process in installation.parts.items()} == pids
        assert all(is_alive(pid) for pid in pids.values())


async def is_named(client: httpx.AsyncClient, endpoint: str) -> bool:
    troubles = (await client.get("/v2/health/ready")).json()["troubles"]
    return any(trouble.startswith("router") and f"endpoint {endpoint}: " in trouble for trouble in troubles)


@pytest.fixture
async def own_user(tmp_path: Path) -> AsyncIterator[tuple[Installation, str]]:
    """An installation on RabbitMQ with its own user, whose permissions can be withdrawn."""
    user = f"u{uuid4().hex[:8]}"
    url = rabbitmq_url()
    await asyncio.to_thread(control_rabbitmq, "ctl", "add_user", user, "secret")
    await allow(user, everything=True)
    try:
        host = url.rpartition("@")[2].removeprefix("amqp://")
        async with Installation(tmp_path, f"amqp://{user}:secret@{host}") as installation:
            yield installation, user
    finally:
        await asyncio.to_thread(control_rabbitmq, "ctl", "delete_user", user)


async def allow(user: str, *, everything: bool) -> None:
    pattern = ".*" if everything else "^$"
    await asyncio.to_thread(control_rabbitmq, "ctl", "set_permissions", user, pattern, pattern, pattern)


@pytest.mark.timeout(240)
async def test_permissions_that_are_withdrawn_for_a_while_end_no_process(own_user: tuple[Installation, str]) -> None:
    installation, user = own_user
    async with asking(installation) as http:
        pids = {part: process.pid for part, process in installation.parts.items()}
        replica = await installation.replica()
        await allow(user, everything=False)
        await asyncio.to_thread(control_rabbitmq, "ctl", "close_all_connections", "test")
        await until(lambda: refuses_without_answers(http), 30.0)
        await installation.declare_as_another("later", f"{NAME}@1", rabbitmq_url())
        await asyncio.sleep(10.0)
        await allow(user, everything=True)
        await until(lambda: answers(http), 60.0)
        await until(lambda: is_ready(http), 60.0)
        async with Client(installation.broker, NAME) as client:
            await client.send(range(REQUESTS))
            await client.all_answered()
            assert client.statuses == {"ok": REQUESTS}
        async with Client(installation.broker, "later") as later:
            await later.send(range(REQUESTS))
            await later.all_answered()
        assert {part: process.pid for part, process in installation.parts.items()} == pids
        assert all(is_alive(pid) for pid in [*pids.values(), replica.pid])


async def refuses_without_answers(client: httpx.AsyncClient) -> bool:
    """Return True if a gateway that cannot receive answers is not ready and refuses requests at once."""
    refused = await client.post(f"/v2/models/{NAME}/infer", content=body_of(7), headers={"millrace-timeout-ms": "3000"})
    ready = await client.get("/v2/health/ready")
    return refused.status_code == ready.status_code == 503 and "no answers can" in refused.text + ready.text


@pytest.mark.timeout(180)
async def test_connections_closed_by_the_management_are_opened_again(tmp_path: Path) -> None:
    async with Installation(tmp_path, rabbitmq_url()) as installation, asking(installation) as http:
        for _ in range(3):
            await asyncio.to_thread(control_rabbitmq, "ctl", "close_all_connections", "test")
            await until(lambda: answers(http), 60.0)
        await until(lambda: all(is_alive(process.pid) for process in installation.parts.values()))


@pytest.mark.timeout(180)
async def test_parts_start_after_limits_were_changed_and_log_the_difference(tmp_path: Path) -> None:
    async with Installation(tmp_path, rabbitmq_url()) as installation, asking(installation) as http:
        for part in ("gateway", "router", "processors"):
            await installation.stop(part)
        settings = tmp_path / "millrace.yaml"
        old, new = (
            f'broker: {{url: "{rabbitmq_url()}"}}',
            f'broker: {{url: "{rabbitmq_url()}", limits: {{requests: 77}}}}',
        )
        text = settings.read_text()
        assert old in text
        settings.write_text(text.replace(old, new))
        for part in ("processors", "router", "gateway"):
            installation.start(part)
        await until(lambda: is_ready(http), 60.0)
        assert await answers(http)
        assert "x-max-length is 100000 and should be 77" in installation.log("processors") + installation.log("router")
