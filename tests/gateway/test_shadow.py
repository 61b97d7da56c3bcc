"""A shadow gets the same requests, and makes no difference to the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from broker.channels import Channels, Limits
from broker.messages import FULL, Message, Outcome
from broker.protocol.bundle import requests_in
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.datatypes import Array
from tests.arms import ONE_NUMBER, X, announce, processing, rows
from tests.gateway.running_gateway import Gateway, running_gateway
from tests.waiting import until

URL = "/v2/models/e/infer"
BODY = json.dumps({"id": "mine", "inputs": [X]}).encode()
PRIMARY, SHADOW = Channels().inputs("m", 1), Channels().inputs("m", 2)
SHADOWED = {"shadow": "v2", "serve": "v1"}


def times(factor: int) -> Any:
    def compute(inputs: dict[str, Array]) -> dict[str, Array]:
        return {"y": (inputs["x"] * factor).astype(np.float32)}

    return compute


class RecordingBroker(SqliteBroker):
    """Records when bundles leave and are confirmed; the outcome of those for the shadow can be set."""

    noted: list[tuple[str, str]]
    shadows: str

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        inputs = [message.queue for message in messages if message.queue in (PRIMARY, SHADOW)]
        noted = self.__dict__.setdefault("noted", [])
        noted += [("sent", queue) for queue in inputs]
        if SHADOW in inputs:
            assert PRIMARY not in inputs
            if (trouble := await self._trouble(len(messages))) is not None:
                return trouble
        outcomes = await super().publish(messages)
        noted += [("safe", queue) for queue in inputs]
        return outcomes

    async def _trouble(self, messages: int) -> list[Outcome] | None:
        shadows = self.__dict__.get("shadows", "")
        if shadows == "broken":
            raise RuntimeError("nobody foresaw this")
        if shadows == "silent":
            await asyncio.sleep(3600)
        return [FULL] * messages if shadows == "full" else None


@asynccontextmanager
async def shadowed(folder: Path, policy: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    async with (
        running_gateway(folder, broker_class=RecordingBroker, **settings) as gateway,
        processing(gateway.broker, {1: times(1), 2: times(2)}),
    ):
        await declare(gateway, policy or SHADOWED)
        yield gateway


async def declare(gateway: Gateway, policy: dict[str, Any]) -> None:
    await gateway.declare(endpoint="e", arms={"v1": "m@1", "v2": "m@2"}, policy=policy)
    await gateway.until("/v2/models/e/ready", 200)
    await gateway.until("/v2/models/e/versions/v2/ready", 200)


def bytes_of(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    own = ("date", "millrace-request-id")
    return answer.status_code, answer.content, {name: text for name, text in answer.headers.items() if name not in own}


async def test_the_answer_is_the_same_to_the_byte_and_both_legs_have_their_rows(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as gateway:
        answer = await gateway.client.post(URL, content=BODY)
        assert answer.json()["outputs"][0]["data"] == [2.0]
        found = await rows(gateway.broker, "e", 2)
        assert [(row["leg"], row["arm"], row["version"], row["status"]) for row in found] == [
            (0, "v1", 1, "ok"),
            (1, "v2", 2, "ok"),
        ]
        assert [row["propensity"] for row in found] == [1.0, 0.0]
        assert [row["output.y"] for row in found] == [2.0, 4.0]
        assert len({(row["uid"], row["policy"], row["accepted_us"]) for row in found}) == 1
    (tmp_path / "alone").mkdir()
    async with shadowed(tmp_path / "alone", {**SHADOWED, "sample": 0.0}) as gateway:
        alone = await gateway.client.post(URL, content=BODY)
        await gateway.client.post(URL, content=BODY)
        assert [row["leg"] for row in await rows(gateway.broker, "e", 2)] == [0, 0]
    assert bytes_of(alone) == bytes_of(answer)


async def test_the_shadow_leaves_when_its_request_is_safe(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as gateway:
        await gateway.client.post(URL, content=BODY)
        await rows(gateway.broker, "e", 2)
        assert vars(gateway.broker)["noted"] == [
            ("sent", PRIMARY),
            ("safe", PRIMARY),
            ("sent", SHADOW),
            ("safe", SHADOW),
        ]


@pytest.mark.parametrize(("shadows", "status"), [("full", "overloaded"), ("broken", "failed")])
async def test_a_shadow_that_cannot_be_published_has_its_row_and_changes_nothing(
    tmp_path: Path, shadows: str, status: str
) -> None:
    async with shadowed(tmp_path) as gateway:
        vars(gateway.broker)["shadows"] = shadows
        answers = await asyncio.gather(*[gateway.client.post(URL, content=BODY) for _ in range(20)])
        assert {answer.status_code for answer in answers} == {200}
        found = await rows(gateway.broker, "e", 40)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 20 + [(1, status)] * 20
    assert {row["uid"] for row in found[:20]} == {row["uid"] for row in found[20:]}


async def test_a_shadow_whose_queue_is_missing_has_its_row_and_changes_nothing(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {1: times(1)}):
        await announce(gateway.broker, "m", 2, full={"max_batch_size": 8})
        await declare(gateway, SHADOWED)
        assert (await gateway.client.post(URL, content=BODY)).status_code == 200
        found = await rows(gateway.broker, "e", 2)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok"), (1, "failed")]
    assert "queue of the shadow's model is not there" in found[1]["error"]


async def test_an_unanswered_shadow_delays_no_request(tmp_path: Path) -> None:
    async with shadowed(tmp_path, grace_s=0.2) as gateway:
        vars(gateway.broker)["shadows"] = "silent"
        for _ in range(3):
            answers = await asyncio.gather(*[gateway.client.post(URL, content=BODY) for _ in range(50)])
            assert {answer.status_code for answer in answers} == {200}


async def test_shadows_that_wait_are_limited(tmp_path: Path) -> None:
    async with shadowed(tmp_path, grace_s=0.2, shadows_limit=5) as gateway:
        vars(gateway.broker)["shadows"] = "silent"
        answers = await asyncio.gather(*[gateway.client.post(URL, content=BODY) for _ in range(20)])
        assert {answer.status_code for answer in answers} == {200}
        found = await rows(gateway.broker, "e", 35)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 20 + [(1, "overloaded")] * 15


async def test_a_refused_request_has_no_shadow_and_both_rows_have_the_error(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {2: times(2)}):
        await announce(gateway.broker, "m", 1, full={"max_batch_size": 8})
        await declare(gateway, SHADOWED)
        assert (await gateway.client.post(URL, content=BODY)).status_code == 503
        found = await rows(gateway.broker, "e", 2)
        assert [(row["leg"], row["status"]) for row in found] == [(0, "failed"), (1, "cancelled")]
        assert (await gateway.broker.depth(SHADOW)).messages == 0


async def test_shadows_of_many_requests_share_bundles(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {1: times(1)}):
        await gateway.broker.declare(SHADOW)
        await announce(gateway.broker, "m", 2, full={"max_batch_size": 32})
        await declare(gateway, SHADOWED)
        await asyncio.gather(*[gateway.client.post(URL, content=BODY) for _ in range(60)])

        async def all_there() -> bool:
            return (await gateway.broker.depth(SHADOW)).requests == 60

        await until(all_there)
        deliveries = await gateway.broker.consume(SHADOW, 100).take(100)
        assert len(deliveries) < 60
        (route,) = {request.route for delivery in deliveries for request in requests_in(delivery.message)}
        assert (route.leg, route.arm, route.reply.name, route.reply_to) == (1, "v2", "NOWHERE", "")


async def test_asynchronous_requests_have_shadows_and_a_repeat_has_none_of_its_own(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as gateway:
        headers = {"prefer": "respond-async", "idempotency-key": "k"}
        for _ in range(2):
            pending = await gateway.client.post(URL, content=BODY, headers=headers)
            assert pending.status_code in (200, 202)
            answer = await gateway.until(f"/v2/requests/{pending.headers['millrace-request-id']}", 200)
            assert answer.json()["outputs"][0]["data"] == [2.0]
        await gateway.client.post(URL, content=BODY)
        found = await rows(gateway.broker, "e", 4)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok"), (0, "ok"), (1, "ok"), (1, "ok")]


async def test_pinned_requests_have_no_shadow(tmp_path: Path) -> None:
    async with shadowed(tmp_path) as gateway:
        for arm in ("v1", "v2"):
            assert (await gateway.client.post(f"/v2/models/e/versions/{arm}/infer", content=BODY)).status_code == 200
        found = await rows(gateway.broker, "e", 2)
        assert [(row["leg"], row["arm"], row["policy"]) for row in found] == [
            (0, "v1", "pinned"),
            (0, "v2", "pinned"),
        ]


async def test_a_full_shadow_queue_delays_no_request(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, processing(gateway.broker, {1: times(1)}, ONE_NUMBER):
        await gateway.broker.declare(SHADOW, Limits(messages=2))
        await announce(gateway.broker, "m", 2, full={"max_batch_size": 1})
        await declare(gateway, SHADOWED)
        for _ in range(5):
            assert (await gateway.client.post(URL, content=BODY)).status_code == 200
        found = await rows(gateway.broker, "e", 8)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 5 + [(1, "overloaded")] * 3
