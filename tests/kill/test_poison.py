"""Requests that kill their replica or fail in it: only they fail or are buried."""

from __future__ import annotations

import asyncio

import pytest

from broker.messages import SAFE, Delivery
from broker.protocol.bundle import bundle, requests_in
from broker.protocol.header import BodyForm, ReplyTo, Request, Route, pack_route, pack_ticket
from broker.protocol.ids import new_uid, now_us, uid_text
from tests.kill.client import Client, body_of
from tests.kill.installation import Installation
from tests.kill.models import FLAKY, GUILTY, PICKY, POISON, POISONED
from tests.kill.report import report
from tests.kill.rows import Row, read_rows

REQUESTS = 2000
PATIENCE_S = 20.0
BUNDLED = 32
MALFORMED = 5
EXPIRED = 9
SECOND_US = 1_000_000
LIFE_US = 100 * SECOND_US


@pytest.mark.parametrize("attempts", [3])
async def test_a_deadly_request_is_buried_after_its_attempts_and_others_are_not_charged(
    installation: Installation, attempts: int
) -> None:
    await installation.serve("poisoned", POISONED, retry={"attempts": attempts})
    async with Client(installation.broker, "poisoned") as client:
        await client.send(range(REQUESTS))
        await client.all_answered()
        [buried] = await _buried(installation, "poisoned")
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "poisoned", ids)
    deaths = installation.log("processors").count("exit status 13")
    charged = [rows.of(client.message_id(number)).attempts for number in range(REQUESTS) if number != POISON]
    report(client, deaths, rows, f"(with a death), most charged to another {max(charged)}")
    [request] = requests_in(buried.message)
    headers = buried.message.headers
    assert deaths == attempts + 1  # once in a batch with others, then alone
    assert bytes(request.body) == body_of(POISON)
    assert uid_text(request.uid) == client.message_id(POISON)
    assert (headers["millrace-dead-reason"], headers["millrace-dead-attempts"]) == ("attempts", attempts)
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    assert client.statuses == {"ok": REQUESTS - 1, "failed": 1}
    assert client.answers[POISON][0].status == "failed"
    assert max(charged) <= 1
    assert (rows.missing(ids), len(rows.first)) == (0, REQUESTS)
    assert rows.of(client.message_id(POISON)) == Row("failed", attempts)


async def test_each_request_of_a_bundle_has_its_own_status(installation: Installation) -> None:
    await installation.serve("poisoned", POISONED)
    async with Client(installation.broker, "poisoned") as client:
        requests = [_request(client, number) for number in [*range(BUNDLED - 1), POISON]]
        requests[MALFORMED] = requests[MALFORMED]._replace(body=_malformed(MALFORMED))
        requests[EXPIRED] = requests[EXPIRED]._replace(deadline_us=now_us() - SECOND_US)
        parts = [part for one in requests for part in (pack_ticket(one, len(one.body)), one.body)]
        queue = installation.channels.inputs("poisoned", 1)
        message = bundle(queue, BodyForm.BUNDLE, pack_route(requests[0].route), parts, len(requests))
        assert await installation.broker.publish([message]) == [SAFE]
        client.sent.update(int(one.correlation) for one in requests)
        await client.all_answered()
        [buried] = await _buried(installation, "poisoned")
        ids = [uid_text(one.uid) for one in requests]
        rows = await read_rows(installation.broker, "poisoned", ids)
    deaths = installation.log("processors").count("exit status 13")
    report(client, deaths, rows, f"(with a death), ends {dict(client.statuses)}")
    ends = {MALFORMED: "invalid", EXPIRED: "expired", POISON: "failed"}
    assert (client.lost, client.twice, client.wrong()) == (0, 0, [])
    for one in requests:
        number = int(one.correlation)
        assert {answer.status for answer in client.answers[number]} == {ends.get(number, "ok")}
        assert rows.of(uid_text(one.uid)).status == ends.get(number, "ok")
    assert (rows.missing(ids), len(rows.first)) == (0, BUNDLED)
    assert bytes(requests_in(buried.message)[0].body) == body_of(POISON)


async def test_an_exception_in_a_batch_fails_only_the_request_that_raised_it(installation: Installation) -> None:
    await installation.serve("picky", PICKY)
    async with Client(installation.broker, "picky") as client:
        await client.send(range(REQUESTS))
        await client.all_answered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "picky", ids)
        redelivered = await installation.redelivered()
    report(client, redelivered, rows, f"ends {dict(client.statuses)}")
    assert (client.lost, client.twice, client.repeated, client.wrong()) == (0, 0, 0, [])
    assert client.statuses == {"ok": REQUESTS - 1, "failed": 1}
    assert client.answers[GUILTY][0].status == "failed"
    assert "not this one" in client.answers[GUILTY][0].text
    assert installation.replicas_ever() == 1
    assert (rows.missing(ids), rows.repeated, len(rows.first)) == (0, 0, REQUESTS)


async def test_a_request_that_fails_twice_is_tried_a_third_time(installation: Installation) -> None:
    await installation.serve("flaky", FLAKY, retry={"attempts": 3, "on": ["failed"]})
    async with Client(installation.broker, "flaky") as client:
        await client.send(range(REQUESTS))
        await client.all_answered()
        ids = client.message_ids()
        rows = await read_rows(installation.broker, "flaky", ids)
        redelivered = await installation.redelivered()
    row = rows.of(client.message_id(GUILTY))
    others = max(rows.of(client.message_id(number)).attempts for number in range(REQUESTS) if number != GUILTY)
    report(client, redelivered, rows, f"attempts {row.attempts}, of the others {others}")
    assert (client.lost, client.twice, client.repeated, client.wrong()) == (0, 0, 0, [])
    assert client.statuses == {"ok": REQUESTS}
    assert (row.status, row.attempts, others) == ("ok", 2, 0)
    assert (rows.missing(ids), rows.repeated, len(rows.first)) == (0, 0, REQUESTS)


def _request(client: Client, number: int) -> Request:
    name = "poisoned"
    route = Route(endpoint=name, arm="v1", model=name, version=1, reply=ReplyTo.CLIENT, reply_to=client.queue)
    now = now_us()
    return Request(
        route=route,
        uid=new_uid(now),
        accepted_us=now,
        deadline_us=now + LIFE_US,
        propensity=1.0,
        correlation=str(number),
        body=body_of(number),
    )


def _malformed(number: int) -> bytes:
    return body_of(number).replace(b"[%d]" % number, b'["no number"]')


async def _buried(installation: Installation, model: str) -> list[Delivery]:
    """Wait for dead letters of a model, and take them."""
    broker = installation.broker
    dead_queue = installation.channels.dead(installation.channels.inputs(model, 1))
    await broker.declare(dead_queue)
    consumer = broker.consume(dead_queue, 100)
    async with asyncio.timeout(PATIENCE_S):
        deliveries = await consumer.take(100)
    await broker.ack(deliveries)
    await consumer.stop()
    return deliveries
