"""The router for queue clients is killed while it works."""

from __future__ import annotations

import signal

from aiokafka import TopicPartition

from broker.kafka.adapter import KafkaBroker
from tests.kill.client import Client
from tests.kill.installation import Installation
from tests.kill.models import STEADY
from tests.kill.report import report
from tests.kill.rows import read_rows
from tests.waiting import until

REQUESTS = 2000
COMES_BACK_S = 5.0


async def test_a_killed_router_loses_nothing(installation: Installation) -> None:
    await installation.serve("steady", STEADY)
    requests = installation.channels.requests("steady")

    async def ready() -> int:
        return (await installation.broker.depth(requests)).messages

    async def is_below(number: int) -> bool:
        return await ready() < number

    async with Client(installation.broker, "steady") as client:
        await _warm(client)
        router = installation.parts["router"]
        router.send_signal(signal.SIGSTOP)
        await client.send(range(REQUESTS))
        full = await ready()
        router.send_signal(signal.SIGCONT)
        await until(lambda: is_below(full))
        router.send_signal(signal.SIGSTOP)  # stopped first, so that its unsettled messages can be counted
        left = REQUESTS - len(client.answers)
        before = await ready()
        installation.kill("router")
        redelivered = 0

        async def came_back() -> bool:
            nonlocal redelivered
            redelivered = await _unsettled(installation, requests) or await ready() - before
            return redelivered > 0

        await until(came_back, COMES_BACK_S)
        installation.start("router")
        await client.all_answered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "steady", ids)
    report(client, redelivered, rows, f"killed with {left} to go")
    assert left > 0
    assert redelivered > 0
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": len(client.sent)}
    assert (rows.missing(ids), len(rows.first)) == (0, len(client.sent))


async def _unsettled(installation: Installation, queue: str) -> int:
    """The number of messages that were delivered by Kafka and not settled: they will be redelivered."""
    broker = installation.broker
    if not isinstance(broker, KafkaBroker):
        return 0
    partitions = [
        TopicPartition(queue, number) for number in range(await broker.cluster.topology.partitions(queue) or 0)
    ]
    states = (await broker.cluster.groups.committed(queue, partitions)).values()
    return sum(state.reach - state.done.bit_count() for state in states)


async def _warm(client: Client) -> None:
    """Send one request and wait for its answer, so that all channels exist."""
    await client.send([REQUESTS])
    await client.all_answered()
