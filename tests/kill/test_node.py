"""RabbitMQ's node is killed, or accepts no publishes for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from broker.base import Broker
from broker.messages import SAFE, STOPPED, Message
from tests.kill.client import Client, body_of
from tests.kill.installation import Installation
from tests.kill.models import SLOW, STEADY
from tests.kill.report import report
from tests.kill.rows import read_rows
from tests.servers import control_rabbitmq
from tests.waiting import until

pytestmark = pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)

REQUESTS = 5000
BEFORE_THE_KILL = 800
IN_FLIGHT = 2000
BEFORE_THE_ALARM = 100
BATCH = 8
# A single node of RabbitMQ 3.10 writes the election of a new queue's leader to disk within some seconds. If it is
# killed before, the queue has no leader after the restart. The node does not report when the election is written.
SETTLED_S = 8.0
AT_ONCE_S = 1.0
PATIENCE_S = 10.0


@pytest.fixture
async def alarm() -> AsyncIterator[None]:
    """After the test start the node and clear the alarm, even if the test failed."""
    yield
    await asyncio.to_thread(control_rabbitmq, "start")
    await asyncio.to_thread(control_rabbitmq, "alarm", "off")


@pytest.mark.usefixtures("alarm")
@pytest.mark.timeout(240)
async def test_a_killed_node_loses_nothing(installation: Installation) -> None:
    await installation.serve("steady", STEADY)
    async with Client(installation.broker, "steady") as client:
        await client.send([REQUESTS])
        await client.all_answered()
        await asyncio.sleep(SETTLED_S)
        sending = asyncio.create_task(client.send(range(REQUESTS)))
        await client.answered(BEFORE_THE_KILL)
        await asyncio.to_thread(control_rabbitmq, "kill")
        left = REQUESTS + 1 - len(client.answers)
        await asyncio.to_thread(control_rabbitmq, "start")
        await sending
        await client.all_answered()
        redelivered = await installation.redelivered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "steady", ids)
    report(client, redelivered, rows, f"killed with {left} to go")
    assert left > 0
    assert redelivered > 0
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": REQUESTS + 1}
    assert (rows.missing(ids), len(rows.first)) == (0, REQUESTS + 1)


@pytest.mark.usefixtures("alarm")
@pytest.mark.timeout(180)
async def test_during_an_alarm_publishes_are_refused_at_once_and_accepted_requests_are_answered(
    installation: Installation,
) -> None:
    await installation.serve("slow", SLOW, "gateway", max_batch=BATCH)
    broker, side = installation.broker, f"{installation.channels.prefix}requests.side"
    await broker.declare(side)
    url = f"http://127.0.0.1:{installation.http_port}/v2/models/slow"
    async with Client(broker, "slow") as client, httpx.AsyncClient(timeout=100.0) as http:
        await until(lambda: _is_ready(http, url))
        assert (await http.post(f"{url}/infer", content=body_of(1))).status_code == 200
        await broker.publish([Message(queue=side, body=b"x")] * 10)
        await client.send(range(IN_FLIGHT))
        await client.answered(BEFORE_THE_ALARM)
        await asyncio.to_thread(control_rabbitmq, "alarm", "on")
        left = IN_FLIGHT - len(client.answers)
        first = await _let_them_notice(broker, side, http, url)
        began_s = time.monotonic()
        outcomes = await broker.publish([Message(queue=side, body=b"y")] * 100)
        refused_s = time.monotonic() - began_s
        began_s = time.monotonic()
        answer = await http.post(f"{url}/infer", content=body_of(2))
        answered_s = time.monotonic() - began_s
        await _ack_with_a_broker_of_its_own(installation, side, 10)
        await asyncio.to_thread(control_rabbitmq, "alarm", "off")
        await client.all_answered()
        published, asked = await first
        redelivered = await installation.redelivered()
        await until(lambda: _answers(http, url))
        rows = await read_rows(broker, "slow", client.message_ids())
        await broker.delete(side)
    text = (
        f"alarm with {left} to go, refused in {refused_s * 1000:.0f} ms, over HTTP {answer.status_code} in"
        f" {answered_s * 1000:.0f} ms, Retry-After {answer.headers.get('retry-after')}"
    )
    report(client, redelivered, rows, text)
    assert left > 0
    assert published == [SAFE]
    assert asked.status_code in {200, 429}
    assert set(outcomes) == {STOPPED}  # refused by the alarm, not by a full queue
    assert refused_s < AT_ONCE_S
    assert (answer.status_code, answered_s < AT_ONCE_S) == (429, True)
    assert int(answer.headers["retry-after"]) >= 1
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": IN_FLIGHT}
    assert not rows.missing(client.message_ids())


async def _let_them_notice(broker: Broker, queue: str, http: httpx.AsyncClient, url: str) -> asyncio.Future[Any]:
    """Publish once from each process, and wait until this one has been notified of the alarm.

    RabbitMQ notifies a connection at its first publish. It reads that publish when the alarm is over, so it is neither
    refused nor lost.
    """
    request = http.post(f"{url}/infer", content=body_of(3))
    first = asyncio.gather(broker.publish([Message(queue=queue, body=b"z")]), request)
    await until(lambda: broker.blocked)
    return first


async def _ack_with_a_broker_of_its_own(installation: Installation, queue: str, number: int) -> None:
    """Take and ack `number` messages over another connection, and check that none is ready after it is closed."""
    async with installation.another_broker() as broker:
        consumer, taken = broker.consume(queue, 100), 0
        async with asyncio.timeout(PATIENCE_S):
            while taken < number:
                deliveries = await consumer.take(100)
                await broker.ack(deliveries)
                taken += len(deliveries)
    assert (await installation.broker.depth(queue)).messages == 0


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    answer = await http.post(f"{url}/infer", content=body_of(4))
    return answer.status_code == 200
