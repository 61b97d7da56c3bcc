"""A queue client's request is forwarded as usual, and never waits for its shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from broker.channels import Limits
from broker.messages import Message, Outcome
from broker.sqlite.adapter import SqliteBroker
from broker.tensor.datatypes import Array
from router.service.endpoint import EndpointLimits
from tests.arms import processing, rows
from tests.router.queueing import CHANNELS, SHADOWED, Client, Noting, any_broker, routing

PRIMARY, SHADOW = CHANNELS.inputs("m", 1), CHANNELS.inputs("m", 2)


def times(factor: int) -> Any:
    def compute(inputs: dict[str, Array]) -> dict[str, Array]:
        return {"y": (inputs["x"] * factor).astype(np.float32)}

    return compute


class Silent(SqliteBroker):
    """Never confirms a shadow."""

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(message.queue == SHADOW for message in messages):
            await asyncio.sleep(3600)
        return await super().publish(messages)


class Broken(SqliteBroker):
    """Raises an unforeseen error for shadows."""

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        if any(message.queue == SHADOW for message in messages):
            raise RuntimeError("nobody foresaw this")
        return await super().publish(messages)


async def ask(client: Client, number: int) -> list[bytes]:
    await client.send(*map(str, range(number)))
    answers = await client.answers(number)
    assert {(answer.headers["status"], answer.headers["arm"]) for answer in answers} == {("ok", "v1")}
    return [answer.body for answer in answers]


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_one_answer_a_request_and_a_row_for_each_leg(tmp_path: Path, kind: str) -> None:
    async with (
        any_broker(kind, tmp_path) as broker,
        processing(broker, {1: times(1), 2: times(2)}),
        routing(broker, SHADOWED) as client,
    ):
        (body,) = set(await ask(client, 10))
        assert orjson.loads(body)["outputs"][0]["data"] == [2.0]
        found = await rows(broker, "shop", 20)
        assert await client.left() == 0
    assert [(row["leg"], row["arm"], row["output.y"]) for row in found] == [(0, "v1", 2.0)] * 10 + [(1, "v2", 4.0)] * 10
    assert {row["uid"] for row in found[:10]} == {row["uid"] for row in found[10:]}


async def test_the_source_is_acked_with_its_request_and_the_shadow_follows(tmp_path: Path) -> None:
    async with (
        Noting(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, {1: times(1), 2: times(2)}),
        routing(broker, SHADOWED) as client,
    ):
        await ask(client, 1)
        await rows(broker, "shop", 2)
        order = [what for what in broker.noted() if what in ("inputs.m.1", "inputs.m.2", "acked")]
        assert order == ["inputs.m.1", "acked", "inputs.m.2"]


@pytest.mark.parametrize("kind", [SqliteBroker, Broken], ids=["no queue", "broken"])
async def test_a_shadow_that_gets_nowhere_has_its_row(tmp_path: Path, kind: type[SqliteBroker]) -> None:
    async with (
        kind(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, {1: times(1)}),
        routing(broker, SHADOWED) as client,
    ):
        await ask(client, 5)
        found = await rows(broker, "shop", 10)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 5 + [(1, "failed")] * 5


async def test_a_full_queue_of_a_shadow_delays_no_request(tmp_path: Path) -> None:
    async with SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker, processing(broker, {1: times(1)}):
        await broker.declare(SHADOW, Limits(messages=1))
        async with routing(broker, SHADOWED) as client:
            for _ in range(3):
                await ask(client, 1)
            found = await rows(broker, "shop", 5)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 3 + [(1, "overloaded")] * 2


async def test_shadows_that_wait_are_limited_and_given_up_at_the_end(tmp_path: Path) -> None:
    async with (
        Silent(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, {1: times(1)}),
        routing(broker, SHADOWED, limits=EndpointLimits(shadows=3, shadows_drain_s=0.1)) as client,
    ):
        await ask(client, 10)
        found = await rows(broker, "shop", 17)
        await client.service.stop()
        await client.running
        assert len({row["uid"] for row in await rows(broker, "shop", 20) if row["leg"]}) == 10
    assert [(row["leg"], row["status"]) for row in found] == [(0, "ok")] * 10 + [(1, "overloaded")] * 7


async def test_a_request_that_expires_has_no_shadow_and_both_rows_say_so(tmp_path: Path) -> None:
    async with (
        SqliteBroker(tmp_path / "broker.db", CHANNELS) as broker,
        processing(broker, {2: times(2)}),
        routing(broker, SHADOWED) as client,
    ):
        await client.send("a", headers={"timeout_ms": 200})
        (answer,) = await client.answers(1)
        assert answer.headers["status"] == "expired"
        found = await rows(broker, "shop", 2)
    assert [(row["leg"], row["status"]) for row in found] == [(0, "expired"), (1, "cancelled")]
