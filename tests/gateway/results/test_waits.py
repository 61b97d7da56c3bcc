"""Clients wait for answers of stored requests, alone or several for one request."""

from __future__ import annotations

import asyncio

from broker.protocol.header import Answer, Status
from gateway.results.waits import AnswerWaits

UID = b"u" * 16
ANSWER = Answer(uid=UID, status=Status.OK)
LONG_S = 10.0


async def test_every_client_that_waits_gets_the_answer() -> None:
    waits = AnswerWaits()
    async with waits.expect(UID, LONG_S) as first, waits.expect(UID, LONG_S) as second:
        assert (len(waits), waits.uids()) == (2, [UID])
        waits.resolve(ANSWER)
        assert (await first(), await second()) == (ANSWER, ANSWER)
    assert (len(waits), waits.uids()) == (0, [])


async def test_an_answer_that_arrives_before_the_wait_is_not_missed() -> None:
    waits = AnswerWaits()
    async with waits.expect(UID, LONG_S) as answer:
        waits.resolve(ANSWER)
        await asyncio.sleep(0)
        assert await answer() == ANSWER


async def test_a_wait_of_no_time_is_no_wait() -> None:
    waits = AnswerWaits()
    async with waits.expect(UID, 0.0) as answer:
        assert len(waits) == 0
        assert await answer() is None


async def test_a_wait_ends_when_its_client_disconnects() -> None:
    waits = AnswerWaits()
    client_disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(LONG_S), waits.expect(UID, 2 * LONG_S, client_disconnected) as answer:
        asyncio.get_running_loop().call_soon(client_disconnected.set_result, None)
        assert await answer() is None


async def test_a_stop_ends_every_wait() -> None:
    waits = AnswerWaits()
    async with asyncio.timeout(LONG_S), waits.expect(UID, 2 * LONG_S) as answer:
        asyncio.get_running_loop().call_soon(waits.give_up)
        assert await answer() is None
    assert waits.stopping
    await waits.drained(0.0)
