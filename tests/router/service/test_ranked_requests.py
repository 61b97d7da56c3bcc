"""A queue client's request that several rankers answer gets one answer, and its source is acked last."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from broker.errors import Failed
from broker.messages import Message
from broker.protocol.ids import uid_of
from broker.sqlite.adapter import SqliteBroker
from router.interleaving.interleave import interleave
from router.interleaving.placed import stream
from router.service.endpoint import DEFAULT_LIMITS, EndpointLimits
from tests.arms import RANKING, merges, processing, rows
from tests.rankers import FIRST, SECOND, Slow, raising, ranking
from tests.router.queueing import CHANNELS, INTERLEAVED, Client, Noting, any_broker, routing

REQUESTS = CHANNELS.requests("shop")
BOTH = {1: ranking(*FIRST), 2: ranking(*SECOND)}


def items(message: Message) -> list[str]:
    assert message.headers["status"] == "ok", message.body
    found: list[str] = orjson.loads(message.body)["outputs"][0]["data"]
    return found


async def until_empty(client: Client) -> None:
    """Wait until no source waits or is held."""
    async with asyncio.timeout(10):
        while (await client.broker.depth(REQUESTS)).messages:  # noqa: ASYNC110 - a broker tells depth only when asked
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_clients_get_one_list_each_and_the_log_has_the_rankers_of_each_item(tmp_path: Path, kind: str) -> None:
    async with (
        any_broker(kind, tmp_path) as broker,
        processing(broker, BOTH, RANKING),
        routing(broker, INTERLEAVED) as client,
    ):
        await client.send(*"abcdefgh")
        answers = await client.answers(8)
        records = {record.uid: record for record in await merges(broker, "shop", 8)}
        found = await rows(broker, "shop", 16)
        assert await client.left() == 0
    assert [answer.correlation_id for answer in answers] == list("abcdefgh")
    for answer in answers:
        uid = uid_of(str(answer.message_id))
        placed = interleave([FIRST, SECOND], "team_draft", 4, draw=stream(b"secret", b"shop", uid))
        assert items(answer) == list(placed.items) == list(records[uid].items)
        assert records[uid].credits == placed.credits
        document = orjson.loads(answer.body)
        assert (document["model_name"], document["id"]) == ("shop", "mine")
        assert document["parameters"] == {"millrace_rankers": "v1,v2"}
        assert [answer.headers[name] for name in ("endpoint", "arm", "model", "version")] == ["shop", "v1+v2", "", "0"]
    assert len({tuple(items(answer)) for answer in answers}) > 1
    assert sorted((row["leg"], row["status"]) for row in found) == [(0, "ok")] * 8 + [(1, "ok")] * 8


@pytest.mark.parametrize("late", ["merge", "mine"])
async def test_the_source_is_acked_when_the_answer_and_the_record_are_safe(tmp_path: Path, late: str) -> None:
    async with (
        Noting(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, BOTH, RANKING),
        routing(broker, INTERLEAVED) as client,
    ):
        await broker.declare("mine")
        broker.reluctant = late
        await client.send("a", reply_to="mine")
        await client.answers(1, "mine")
        async with asyncio.timeout(10):
            while "acked" not in broker.noted():  # noqa: ASYNC110 - written by another task
                await asyncio.sleep(0.01)
        noted = broker.noted()
        assert {"inputs.m.1", "inputs.m.2", "mine", "merge"} <= set(noted[: noted.index("acked")])
        assert [noted.count(what) for what in ("acked", "merge", "mine")] == [1, 1, 1]
        assert broker.refusals == 0


async def test_a_source_whose_router_dies_before_the_merge_comes_back_and_is_answered_once(tmp_path: Path) -> None:
    slow, file = Slow(*SECOND), tmp_path / "broker.db"
    async with (
        SqliteBroker(file, CHANNELS) as models,
        processing(models, {1: ranking(*FIRST), 2: slow}, RANKING),
    ):
        await models.declare("mine")
        async with SqliteBroker(file, CHANNELS) as first, routing(first, INTERLEAVED) as client:
            await client.send("a", reply_to="mine")
            await asyncio.to_thread(slow.asked.wait, 10)
            client.running.cancel()
        slow.go.set()
        async with SqliteBroker(file, CHANNELS) as second, routing(second, INTERLEAVED) as client:
            (answer,) = await client.answers(1, "mine")
            uid = uid_of(str(answer.message_id))
            placed = interleave([FIRST, SECOND], "team_draft", 4, draw=stream(b"secret", b"shop", uid))
            assert items(answer) == list(placed.items)
            assert [record.uid for record in await merges(second, "shop", 1)] == [uid]
        assert (await models.depth("mine")).messages == 0
        assert (await models.depth(REQUESTS)).messages == 0
        assert len(await merges(models, "shop", 1)) == 1


async def test_a_slow_ranker_is_left_out_after_the_wait_and_the_answer_names_the_others(tmp_path: Path) -> None:
    slow = Slow(*SECOND)
    async with (
        SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, {1: ranking(*FIRST), 2: slow}, RANKING),
        routing(broker, {**INTERLEAVED, "wait": "200ms"}) as client,
    ):
        await client.send("a")
        (answer,) = await client.answers(1)
        assert items(answer) == FIRST
        assert orjson.loads(answer.body)["parameters"] == {"millrace_rankers": "v1"}
        assert [answer.headers[name] for name in ("arm", "model", "version")] == ["v1", "m", "0"]
        (record,) = await merges(broker, "shop", 1)
        assert (record.used, record.credits) == (("v1",), ((0.0, 0.0),) * 4)
        slow.go.set()


async def test_a_ranker_that_fails_is_left_out_and_if_all_do_the_client_hears_why(tmp_path: Path) -> None:
    broken = raising(Failed("nothing to rank"))
    async with SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker:
        async with processing(broker, {1: broken, 2: broken}, RANKING), routing(broker, INTERLEAVED) as client:
            await client.send("a")
            await client.send("b", body=b'{"inputs": 5}')
            failed, invalid = await client.answers(2)
            assert (failed.headers["status"], failed.headers["model"]) == ("failed", "m")
            assert "nothing to rank" in orjson.loads(failed.body)["error"]
            assert invalid.headers["status"] == "invalid"
        async with (
            processing(broker, {1: broken, 2: ranking(*SECOND)}, RANKING),
            routing(broker, INTERLEAVED) as client,
        ):
            await client.send("c")
            (answer,) = await client.answers(1)
            assert items(answer) == SECOND
    async with SqliteBroker(tmp_path / "broker.db", CHANNELS) as later:
        assert (await later.depth(REQUESTS)).messages == 0


async def test_requests_wait_for_queues_that_are_not_there_yet_and_expire_once(tmp_path: Path) -> None:
    async with (
        SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker,
        routing(broker, INTERLEAVED) as client,
    ):
        await client.send("a", headers={"timeout_ms": 300})
        await client.send("b")
        (expired,) = await client.answers(1)
        assert (expired.correlation_id, expired.headers["status"]) == ("a", "expired")
        async with processing(broker, BOTH, RANKING):
            (answer,) = await client.answers(1)
            assert (answer.correlation_id, len(items(answer))) == ("b", 4)
        assert await client.left() == 0
        found = await rows(broker, "shop", 4)
        assert sorted((row["leg"], row["status"]) for row in found) == [
            (0, "failed"),
            (0, "ok"),
            (1, "failed"),
            (1, "ok"),
        ]


async def test_a_request_without_a_reply_address_is_answered_on_the_output_queue(tmp_path: Path) -> None:
    async with (
        SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, BOTH, RANKING),
        routing(broker, INTERLEAVED) as client,
    ):
        await client.send("a", reply_to=None)
        (answer,) = await client.answers(1, CHANNELS.results("shop"))
        assert len(items(answer)) == 4


@pytest.mark.parametrize("answered", [True, False])
async def test_open_requests_are_answered_or_delivered_again_when_the_router_stops(
    tmp_path: Path, answered: bool
) -> None:
    slow, file = Slow(*SECOND), tmp_path / "broker.db"
    limits = DEFAULT_LIMITS if answered else EndpointLimits(ranked_stop_s=0.1)
    async with (
        SqliteBroker(file, CHANNELS) as models,
        processing(models, {1: ranking(*FIRST), 2: slow}, RANKING),
    ):
        async with SqliteBroker(file, CHANNELS) as broker, routing(broker, INTERLEAVED, limits=limits) as client:
            await client.send("a")
            await asyncio.to_thread(slow.asked.wait, 10)
            await client.service.stop()
            if answered:
                slow.go.set()
            await client.running
            assert await client.left() == answered
        assert (await models.depth(REQUESTS)).messages == (not answered)
        slow.go.set()


async def test_one_message_that_comes_twice_leaves_no_source_behind(tmp_path: Path) -> None:
    async with (
        SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, BOTH, RANKING),
        routing(broker, INTERLEAVED) as client,
    ):
        await client.send("a", message_id="m-1")
        await client.send("a", message_id="m-1")
        one, two = await client.answers(2)
        assert set(items(one)) | set(items(two)) <= {*FIRST, *SECOND}
        await until_empty(client)
