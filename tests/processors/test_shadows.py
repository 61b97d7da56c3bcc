"""A shadow is computed and logged like any request, and answers nobody, however it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Failed
from broker.protocol.header import ReplyTo
from tests.processors.piping import REPLIES, ROUTE, Pipe, alone, bundled, piped, request

SHADOW = replace(ROUTE, arm="v2", policy="shadow", reply=ReplyTo.NOWHERE, reply_to="", leg=1)


def same(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"y": inputs["x"], "z": inputs["x"]}


def raising(_: dict[str, Any]) -> dict[str, Any]:
    raise Failed("broken")


def by_leg(rows: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return sorted((row["leg"], row["arm"], row["status"]) for row in rows)


async def settled(pipe: Pipe) -> bool:
    """Tell whether nothing is left to take or to settle, and nobody was answered."""
    queues = (pipe.pipeline.queue, pipe.broker.channels.retry(pipe.pipeline.queue), REPLIES)
    return pipe.pipeline.acks.held == 0 and not any([(await pipe.broker.depth(queue)).messages for queue in queues])


async def test_it_is_computed_and_logged_beside_its_request(tmp_path: Path) -> None:
    """Both may be of one model version: they have one uid, and are told apart by the leg."""
    primary = request(3.0)
    shadow = primary._replace(route=SHADOW, propensity=0.0)
    async with piped(tmp_path, same) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [primary]), bundled(pipe.pipeline.queue, [shadow]))
        await pipe.serve()
        assert list(await pipe.answers()) == [primary.uid]
        found = await pipe.rows()
        assert by_leg(found) == [(0, "v1", "ok"), (1, "v2", "ok")]
        assert {(row["uid"], row["output.y"]) for row in found} == {(primary.uid, 3.0)}
        assert await settled(pipe)


@pytest.mark.parametrize(("compute", "deadline_us", "status"), [(raising, 0, "failed"), (same, 1, "expired")])
async def test_one_that_ends_badly_has_its_row_and_no_answer(
    tmp_path: Path, compute: Any, deadline_us: int, status: str
) -> None:
    async with piped(tmp_path, compute) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(route=SHADOW, deadline_us=deadline_us)]))
        await pipe.serve()
        assert by_leg(await pipe.rows()) == [(1, "v2", status)]
        assert await settled(pipe)


async def test_one_that_killed_its_processor_too_often_is_buried_with_its_row(tmp_path: Path) -> None:
    async with piped(tmp_path, same) as pipe:
        lane = pipe.broker.channels.retry(pipe.pipeline.queue)
        await pipe.put(alone(lane, request(route=SHADOW, attempts=3)))
        await pipe.serve_alone()
        (row,) = await pipe.rows()
        assert (row["leg"], row["arm"], row["status"], row["attempts"]) == (1, "v2", "failed", 3)
        assert "buried" in row["error"]
        assert len(await pipe.waiting(pipe.broker.channels.dead(pipe.pipeline.queue))) == 1
        assert await settled(pipe)


async def test_a_cancel_ends_every_leg_of_a_request_and_no_other(tmp_path: Path) -> None:
    gone, stays = request(), request()
    legs = [one._replace(route=SHADOW) for one in (gone, stays)]
    async with piped(tmp_path, same, cancels={gone.uid}) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [gone, stays]), bundled(pipe.pipeline.queue, legs))
        await pipe.serve()
        assert by_leg(await pipe.rows()) == [
            (0, "v1", "cancelled"),
            (0, "v1", "ok"),
            (1, "v2", "cancelled"),
            (1, "v2", "ok"),
        ]
        assert {uid: said[0] for uid, said in (await pipe.answers()).items()} == {
            gone.uid: "cancelled",
            stays.uid: "ok",
        }
