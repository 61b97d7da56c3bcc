"""Background tasks with an owner, and waits with a limit."""

from __future__ import annotations

import asyncio

from broker.support.tasks import Tasks, wait_for_event


async def test_a_wait_ends_when_the_event_is_set() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    assert await wait_for_event(event, 30.0)


async def test_a_wait_ends_after_its_timeout() -> None:
    assert not await wait_for_event(asyncio.Event(), 0.001)


async def test_an_event_that_is_set_is_not_waited_for_even_with_a_timeout_of_zero() -> None:
    event = asyncio.Event()
    event.set()
    assert await wait_for_event(event, 0.0)


async def test_a_task_that_dies_calls_the_exception_handler_of_the_loop() -> None:
    messages: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context["message"]))

    async def die() -> None:
        raise ValueError

    tasks = Tasks()
    tasks.spawn(die(), "worker")
    await tasks.drain()
    assert messages == ["the background task worker died"]


async def test_cancel_waits_until_tasks_have_ended() -> None:
    ended: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    tasks = Tasks()
    tasks.spawn(work(), "worker")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert ended == [True]
