"""Deliveries between the fetcher and `take`."""

from __future__ import annotations

import asyncio

from broker.kafka.delivery_buffer import DeliveryBuffer
from broker.kafka.offset_tracker import CommittedState, OffsetTracker
from tests.broker.kafka.fakes import deliver, partition


def tags(buffer: DeliveryBuffer) -> list[int]:
    return [delivery.tag for delivery in buffer.pop(100)]


async def test_deliveries_are_popped_in_order_up_to_the_limit() -> None:
    buffer, tracker = DeliveryBuffer(), OffsetTracker(partition(), CommittedState(0))
    buffer.extend(deliver(None, tracker, 0, 1, 2))
    assert [delivery.tag for delivery in buffer.pop(2)] == [0, 1]
    assert tags(buffer) == [2]


async def test_withdrawn_deliveries_are_fresh_again() -> None:
    buffer, tracker = DeliveryBuffer(), OffsetTracker(partition(), CommittedState(0))
    buffer.extend(deliver(None, tracker, 0, 1, 2))
    buffer.pop(1)
    buffer.withdraw()
    assert not buffer
    assert (tracker.position, tracker.outstanding) == (1, 1)


async def test_a_delivery_that_came_back_is_not_withdrawn() -> None:
    buffer, tracker = DeliveryBuffer(), OffsetTracker(partition(), CommittedState(0, "former", reach=2))
    buffer.extend(deliver(None, tracker, 0, 1, 2))
    buffer.withdraw()
    assert tags(buffer) == [0, 1]


async def test_deliveries_of_lost_partitions_are_dropped() -> None:
    buffer = DeliveryBuffer()
    kept, lost = (OffsetTracker(partition(number), CommittedState(0)) for number in (0, 1))
    buffer.extend([*deliver(None, kept, 0), *deliver(None, lost, 0, 1)])
    [requeued] = deliver(None, lost, 2)
    lost.lost = True
    buffer.drop_lost()
    buffer.put_back(lost, requeued)
    assert len(buffer) == 1


async def test_an_arrival_ends_a_wait() -> None:
    buffer, tracker = DeliveryBuffer(), OffsetTracker(partition(), CommittedState(0))
    waiting = asyncio.create_task(buffer.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.extend(deliver(None, tracker, 0))
    await asyncio.wait_for(waiting, 10)
