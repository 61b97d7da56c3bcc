"""An endpoint with several rankers answers with one merged list, names the rankers, and logs a merge record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.base import Broker
from broker.errors import Failed, InvalidRequest
from broker.messages import FULL, Message, Outcome
from broker.protocol.ids import uid_of
from broker.records.merges import TYPE, read_merge
from broker.sqlite.adapter import SqliteBroker
from router.interleaving.interleave import interleave
from router.interleaving.placed import stream
from tests.arms import RANKING, Compute, X, announce, merges, processing, records, rows
from tests.gateway.running_gateway import Gateway, running_gateway
from tests.rankers import FIRST, SECOND, Slow, raising, ranking
from tests.waiting import until

URL = "/v2/models/shop/infer"
BODY = json.dumps({"id": "mine", "inputs": [X]}).encode()
ARMS = {"v1": "m@1", "v2": "m@2"}
INTERLEAVED: dict[str, Any] = {"interleave": ["v1", "v2"], "credit": "clicked"}
CLICKED = {"rewards": {"clicked": {"default": 0}}}


class RefusingBroker(SqliteBroker):
    """Refuses the first merge records."""

    refusals = 3

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(message.headers.get("cloudEvents_type") == TYPE for message in messages) and self.refusals > 0:
            self.refusals -= 1
            return [FULL] * len(messages)
        return await super().publish(messages)


class DelayedBroker(SqliteBroker):
    """Holds merge records back until a test releases them."""

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(message.headers.get("cloudEvents_type") == TYPE for message in messages):
            await release_of(self).wait()
        return await super().publish(messages)


def release_of(broker: Broker) -> asyncio.Event:
    """Return the event that releases the records of a `DelayedBroker`."""
    event: asyncio.Event = vars(broker).setdefault("release", asyncio.Event())
    return event


async def written(broker: Broker) -> int:
    """Return the number of merge records on the log."""
    return sum(read_merge(record) is not None for record in await records(broker, "shop"))


@asynccontextmanager
async def shop(
    folder: Path, first: Compute, second: Compute, *, wait: str = "5s", **settings: Any
) -> AsyncIterator[Gateway]:
    """Serve `shop` with two rankers."""
    async with (
        running_gateway(folder, **settings) as gateway,
        processing(gateway.broker, {1: first, 2: second}, RANKING),
    ):
        await declare(gateway, wait=wait)
        yield gateway


async def declare(gateway: Gateway, wait: str = "5s", **more: Any) -> None:
    policy = {"method": "team_draft", "length": 4, "output": "items", "wait": wait, **INTERLEAVED}
    await gateway.declare(endpoint="shop", arms=ARMS, policy=policy, feedback=CLICKED, **more)
    for path in ("", "/versions/v1", "/versions/v2"):
        await gateway.until(f"/v2/models/shop{path}/ready", 200)


def items(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["outputs"][0]["data"]
    return found


async def test_the_client_gets_one_list_and_the_log_has_the_merge_record(tmp_path: Path) -> None:
    async with shop(tmp_path, ranking(*FIRST), ranking(*SECOND)) as gateway:
        answers = [await gateway.client.post(URL, content=BODY) for _ in range(10)]
        records = {record.uid: record for record in await merges(gateway.broker, "shop", 10)}
        found = await rows(gateway.broker, "shop", 20)
    for answer in answers:
        uid = uid_of(answer.headers["millrace-request-id"])
        placed = interleave([FIRST, SECOND], "team_draft", 4, draw=stream(b"secret", b"shop", uid))
        assert items(answer) == list(placed.items) == list(records[uid].items)
        assert set(items(answer)) & set(FIRST)
        assert set(items(answer)) & set(SECOND)
        assert records[uid].credits == placed.credits
        assert (records[uid].rankers, records[uid].used) == (("v1", "v2"), ("v1", "v2"))
        assert answer.json()["id"] == "mine"
        assert answer.json()["model_name"] == "shop"
        assert answer.json()["parameters"] == {"millrace_rankers": "v1,v2"}
        assert (answer.headers["millrace-arm"], answer.headers["millrace-status"]) == ("v1+v2", "ok")
    assert len({tuple(items(answer)) for answer in answers}) > 1
    assert [row["leg"] for row in found] == [0] * 10 + [1] * 10
    assert {(row["status"], row["propensity"]) for row in found} == {("ok", 0.5), ("ok", 0.0)}
    assert {row["uid"] for row in found[:10]} == {row["uid"] for row in found[10:]} == set(records)


async def test_a_slow_ranker_is_left_out_after_the_wait_and_the_answer_names_the_others(tmp_path: Path) -> None:
    slow = Slow(*SECOND)
    async with shop(tmp_path, ranking(*FIRST), slow, wait="200ms") as gateway:
        answer = await gateway.client.post(URL, content=BODY)
        assert items(answer) == FIRST
        assert answer.headers["millrace-arm"] == "v1"
        assert answer.json()["parameters"] == {"millrace_rankers": "v1"}
        (record,) = await merges(gateway.broker, "shop", 1)
        assert (record.rankers, record.used, record.credits) == (("v1", "v2"), ("v1",), ((0.0, 0.0),) * 4)
        slow.go.set()
        found = await rows(gateway.broker, "shop", 2)
        assert {(row["arm"], row["status"]) for row in found} == {("v1", "ok"), ("v2", "ok")}


async def test_the_wait_goes_on_until_at_least_one_ranker_has_answered(tmp_path: Path) -> None:
    slow = Slow(*FIRST)
    async with shop(tmp_path, slow, raising(Failed("broken")), wait="50ms") as gateway:
        asking = asyncio.ensure_future(gateway.client.post(URL, content=BODY))
        await asyncio.sleep(0.4)
        assert not asking.done()
        slow.go.set()
        assert items(await asking) == FIRST


@pytest.mark.parametrize("second", [raising(Failed("broken")), ranking("b", "b")], ids=["fails", "ranks twice"])
async def test_a_ranker_that_fails_or_answers_garbage_is_left_out(tmp_path: Path, second: Compute) -> None:
    async with shop(tmp_path, ranking(*FIRST), second) as gateway:
        answer = await gateway.client.post(URL, content=BODY)
        assert answer.headers["millrace-arm"] == "v1"
        assert items(answer) == FIRST


async def test_when_all_rankers_fail_the_client_gets_their_errors(tmp_path: Path) -> None:
    broken = raising(Failed("nothing to rank"))
    async with shop(tmp_path, broken, broken) as gateway:
        answer = await gateway.client.post(URL, content=BODY)
        assert (answer.status_code, answer.headers["millrace-status"]) == (500, "failed")
        assert "nothing to rank" in answer.json()["error"]
        wrong = await gateway.client.post(URL, content=b'{"inputs": 5}')
        assert (wrong.status_code, wrong.headers["millrace-status"]) == (400, "invalid")


async def test_an_invalid_answer_of_one_ranker_is_not_the_clients_fault(tmp_path: Path) -> None:
    async with shop(tmp_path, raising(InvalidRequest("too odd")), raising(Failed("broken"))) as gateway:
        for _ in range(5):
            assert (await gateway.client.post(URL, content=BODY)).status_code == 500


async def test_a_ranker_whose_queue_is_missing_is_left_out_at_once(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {1: ranking(*FIRST)}, RANKING):
        await announce(gateway.broker, "m", 2, full={"max_batch_size": 8})
        await declare(gateway, wait="8s")
        async with asyncio.timeout(4):
            assert items(await gateway.client.post(URL, content=BODY)) == FIRST
        found = await rows(gateway.broker, "shop", 2)
        assert {(row["arm"], row["status"]) for row in found} == {("v1", "ok"), ("v2", "failed")}
        assert len({row["leg"] for row in found}) == 2


async def test_a_request_waits_no_longer_than_allowed(tmp_path: Path) -> None:
    slow = Slow(*FIRST)
    async with shop(tmp_path, slow, slow) as gateway:
        answer = await gateway.client.post(URL, content=BODY, headers={"millrace-timeout-ms": "200"})
        assert (answer.status_code, answer.headers["millrace-status"]) == (504, "expired")
        slow.go.set()


@pytest.mark.parametrize("headers", [{"prefer": "respond-async"}, {"prefer": "wait=3"}, {"idempotency-key": "k"}])
async def test_stored_requests_and_idempotency_keys_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async with shop(tmp_path, ranking(*FIRST), ranking(*SECOND)) as gateway:
        answer = await gateway.client.post(URL, content=BODY, headers=headers)
        assert (answer.status_code, answer.headers["millrace-status"]) == (400, "invalid")
        assert "without Prefer and Idempotency-Key, or pin an arm" in answer.json()["error"]
        pinned = await gateway.client.post("/v2/models/shop/versions/v2/infer", content=BODY, headers=headers)
        assert pinned.status_code in (200, 202)


async def test_a_single_ready_ranker_answers_alone(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {1: ranking(*FIRST)}, RANKING):
        await gateway.declare(endpoint="shop", arms=ARMS, policy=INTERLEAVED, feedback=CLICKED)
        await gateway.until("/v2/models/shop/ready", 200)
        answer = await gateway.client.post(URL, content=BODY)
        assert items(answer) == FIRST
        assert "parameters" not in answer.json()
        assert [row["leg"] for row in await rows(gateway.broker, "shop", 1)] == [0]


async def test_a_gateway_at_its_limit_of_pending_requests_refuses_ranked_ones_too(tmp_path: Path) -> None:
    slow = Slow(*FIRST)
    async with shop(tmp_path, slow, slow, pending_limit=2) as gateway:
        asking = [asyncio.ensure_future(gateway.client.post(URL, content=BODY)) for _ in range(4)]
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert {one.result().status_code for one in done} == {429}
        slow.go.set()
        codes = sorted([answer.status_code for answer in await asyncio.gather(*asking)])
        assert codes == [200, 200, 429, 429]
        found = await rows(gateway.broker, "shop", 8)
        assert sorted((row["leg"], row["status"]) for row in found) == [
            (leg, status) for leg in (0, 1) for status in ("ok", "ok", "overloaded", "overloaded")
        ]


async def test_a_record_that_is_refused_is_written_before_the_gateway_has_stopped(tmp_path: Path) -> None:
    async with shop(tmp_path, ranking(*FIRST), ranking(*SECOND), broker_class=RefusingBroker) as gateway:
        await gateway.client.post(URL, content=BODY)  # answered, although the log refuses the record
        gateway.stop.set()
        await gateway.running
        assert vars(gateway.broker)["refusals"] == 0
        assert len(await merges(gateway.broker, "shop", 1)) == 1


async def test_a_stop_waits_for_the_merge_records(tmp_path: Path) -> None:
    async with shop(tmp_path, ranking(*FIRST), ranking(*SECOND), broker_class=DelayedBroker) as gateway:
        assert items(await gateway.client.post(URL, content=BODY))
        gateway.stop.set()
        done, _ = await asyncio.wait({gateway.running}, timeout=0.5)
        assert not done
        assert await written(gateway.broker) == 0
        release_of(gateway.broker).set()
        await gateway.running
        assert await written(gateway.broker) == 1


async def test_a_client_that_disconnects_ends_its_wait(tmp_path: Path) -> None:
    slow = Slow(*FIRST)
    async with shop(tmp_path, slow, slow) as gateway:
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post(URL, content=BODY, timeout=0.3)

        async def left() -> bool:
            return gateway.registry.get_sample_value("millrace_gateway_pending_requests") == 0

        await until(left)
        slow.go.set()
