"""A replica that is killed or stopped while it works."""

from __future__ import annotations

import signal

from broker.kafka.adapter import KafkaBroker
from broker.kafka.address import PARTITIONS
from tests.kill.client import Client
from tests.kill.installation import Installation, kill_process
from tests.kill.models import STEADY
from tests.kill.report import report
from tests.kill.rows import read_rows

REQUESTS = 5000
BEFORE_THE_KILL = 800
HELD = 16  # broker messages: a replica usually holds at most eight batches


async def test_a_killed_replica_loses_nothing_and_each_request_has_one_row(installation: Installation) -> None:
    await installation.serve("steady", STEADY)
    async with Client(installation.broker, "steady") as client:
        await client.send(range(REQUESTS))
        replica = await installation.replica()
        await client.answered(BEFORE_THE_KILL)
        kill_process(replica.pid)
        left = REQUESTS - len(client.answers)
        await client.all_answered()
        await installation.replica(but=replica.pid)
        redelivered = await installation.redelivered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "steady", ids)
    report(client, redelivered, rows, f"killed with {left} to go")
    assert left > 0
    ahead = PARTITIONS if isinstance(installation.broker, KafkaBroker) else 0  # the reason is in docs/brokers.md
    assert 0 < redelivered <= HELD + ahead
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": REQUESTS}
    assert rows.missing(ids) == 0
    assert len(rows.first) == REQUESTS
    assert {row.status for row in rows.first.values()} == {"ok"}


async def test_a_stopped_replica_answers_the_requests_that_it_holds(installation: Installation) -> None:
    await installation.serve("steady", STEADY)
    async with Client(installation.broker, "steady") as client:
        await client.send(range(REQUESTS))
        replica = await installation.replica()
        await client.answered(BEFORE_THE_KILL)
        kill_process(replica.pid, signal.SIGTERM)
        left = REQUESTS - len(client.answers)
        await client.all_answered()
        await installation.replica(but=replica.pid)
        redelivered = await installation.redelivered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "steady", ids)
    report(client, redelivered, rows, f"stopped with {left} to go")
    assert left > 0
    assert (client.lost, client.twice, client.repeated, redelivered) == (0, 0, 0, 0)
    assert client.statuses == {"ok": REQUESTS}
    assert (rows.missing(ids), rows.repeated) == (0, 0)
    assert installation.announcements[replica.instance].state == "stopped"
