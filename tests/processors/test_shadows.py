"""A shadow is computed and logged like any request, and is never answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Failed
from broker.protocol.bundle import single
from broker.protocol.header import ReplyTo
from tests.processors.pipeline_harness import REPLIES, ROUTE, PipelineHarness, bundled, request, running_pipeline

SHADOW = replace(ROUTE, arm="v2", policy="shadow", reply=ReplyTo.NOWHERE, reply_to="", leg=1)


def same(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"y": inputs["x"], "z": inputs["x"]}


def raising(_: dict[str, Any]) -> dict[str, Any]:
    raise Failed("broken")


def by_leg(rows: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return sorted((row["leg"], row["arm"], row["status"]) for row in rows)


async def settled(harness: PipelineHarness) -> bool:
    """Return True if nothing is left to take or to settle, and no answer was sent."""
    queues = (harness.pipeline.queue, harness.broker.channels.retry(harness.pipeline.queue), REPLIES)
    return harness.pipeline.acks.held == 0 and not any(
        [(await harness.broker.depth(queue)).messages for queue in queues]
    )


async def test_a_shadow_is_computed_and_logged_beside_its_request(tmp_path: Path) -> None:
    """Both legs may go to one model version: they have one uid, and differ in the leg."""
    primary = request(3.0)
    shadow = primary._replace(route=SHADOW, propensity=0.0)
    async with running_pipeline(tmp_path, same) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [primary]), bundled(harness.pipeline.queue, [shadow]))
        await harness.serve()
        assert list(await harness.answers()) == [primary.uid]
        found = await harness.rows()
        assert by_leg(found) == [(0, "v1", "ok"), (1, "v2", "ok")]
        assert {(row["uid"], row["output.y"]) for row in found} == {(primary.uid, 3.0)}
        assert await settled(harness)


@pytest.mark.parametrize(("compute", "deadline_us", "status"), [(raising, 0, "failed"), (same, 1, "expired")])
async def test_a_failed_shadow_has_its_row_and_no_answer(
    tmp_path: Path, compute: Any, deadline_us: int, status: str
) -> None:
    async with running_pipeline(tmp_path, compute) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(route=SHADOW, deadline_us=deadline_us)]))
        await harness.serve()
        assert by_leg(await harness.rows()) == [(1, "v2", status)]
        assert await settled(harness)


async def test_a_shadow_that_killed_its_processor_too_often_is_buried_and_has_its_row(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, same) as harness:
        lane = harness.broker.channels.retry(harness.pipeline.queue)
        await harness.publish(single(lane, request(route=SHADOW, attempts=3)))
        await harness.serve_alone()
        (row,) = await harness.rows()
        assert (row["leg"], row["arm"], row["status"], row["attempts"]) == (1, "v2", "failed", 3)
        assert "buried" in row["error"]
        assert len(await harness.take_all(harness.broker.channels.dead(harness.pipeline.queue))) == 1
        assert await settled(harness)


async def test_a_cancel_ends_every_leg_of_a_request_and_no_other(tmp_path: Path) -> None:
    gone, stays = request(), request()
    legs = [one._replace(route=SHADOW) for one in (gone, stays)]
    async with running_pipeline(tmp_path, same, cancels={gone.uid}) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [gone, stays]), bundled(harness.pipeline.queue, legs))
        await harness.serve()
        assert by_leg(await harness.rows()) == [
            (0, "v1", "cancelled"),
            (0, "v1", "ok"),
            (1, "v2", "cancelled"),
            (1, "v2", "ok"),
        ]
        assert {uid: answer[0] for uid, answer in (await harness.answers()).items()} == {
            gone.uid: "cancelled",
            stays.uid: "ok",
        }
