"""A replica announces `ready`, `loading` and `failed` by what its queue allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from broker.base import Consumer
from broker.delivery.heartbeat import Heartbeat
from processors.queue_readiness import QueueReadiness
from tests.waiting import in_background, until

LOST = "the queue is gone"
MODEL = {"name": "m"}
NEVER_S = 3600.0


class Announcements:
    """A heartbeat that only records what it is told to announce."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.details: list[dict[str, Any]] = []

    async def set_state(self, state: str, **details: Any) -> None:
        self.states.append(state)
        self.details.append(details)


class Queue:
    """A consumer with a trouble that the test sets."""

    trouble = ""


def watched(readiness: QueueReadiness, queue: Queue) -> AbstractAsyncContextManager[None]:
    return in_background(readiness.watch(cast("Consumer", queue)))


@pytest.fixture
def announcements() -> Announcements:
    return Announcements()


def readiness_of(
    announcements: Announcements,
    *,
    lost_after_s: float = NEVER_S,
    never_came_after_s: float = NEVER_S,
) -> QueueReadiness:
    return QueueReadiness(
        cast("Heartbeat", announcements),
        MODEL,
        not_ready_check_s=0.01,
        check_s=0.01,
        lost_after_s=lost_after_s,
        never_came_after_s=never_came_after_s,
    )


def announced(announcements: Announcements, *states: str) -> Callable[[], Any]:
    async def holds() -> bool:
        return announcements.states == list(states)

    return holds


async def test_a_replica_whose_queue_is_lost_is_loading_until_it_is_back(announcements: Announcements) -> None:
    readiness, queue = readiness_of(announcements, lost_after_s=0.1), Queue()
    async with watched(readiness, queue):
        await until(announced(announcements, "ready"))
        queue.trouble = LOST
        await until(announced(announcements, "ready", "loading"))
        assert readiness.trouble == LOST
        queue.trouble = ""
        await until(announced(announcements, "ready", "loading", "ready"))
        assert readiness.trouble == ""
    assert announcements.details == [{"full": MODEL}] * 3


async def test_a_short_loss_is_not_announced(announcements: Announcements) -> None:
    readiness, queue = readiness_of(announcements, lost_after_s=0.5), Queue()
    async with watched(readiness, queue):
        await until(announced(announcements, "ready"))
        for _ in range(3):
            queue.trouble = LOST
            await asyncio.sleep(0.2)
            queue.trouble = ""
            await asyncio.sleep(0.05)
    assert announcements.states == ["ready"]
    assert readiness.trouble == ""


async def test_a_queue_lost_during_the_retries_is_announced_as_soon_as_any_other(announcements: Announcements) -> None:
    readiness, first, second, third = readiness_of(announcements, lost_after_s=0.1), Queue(), Queue(), Queue()
    async with watched(readiness, first):
        await until(announced(announcements, "ready"))
    second.trouble = LOST
    async with watched(readiness, second):
        await until(announced(announcements, "ready", "loading"))
    assert readiness.trouble == ""  # no queue is watched while the retries are served
    async with watched(readiness, third):
        await until(announced(announcements, "ready", "loading", "ready"))


async def test_a_replica_that_never_had_its_queue_fails_with_the_reason(announcements: Announcements) -> None:
    readiness, queue = readiness_of(announcements, never_came_after_s=0.1), Queue()
    queue.trouble = LOST
    async with watched(readiness, queue):
        await until(announced(announcements, "failed"))
        assert announcements.details == [{"error": LOST}]
        assert readiness.trouble == ""  # it is announced as failed, not as ready with a trouble
        queue.trouble = ""
        await until(announced(announcements, "failed", "ready"))
