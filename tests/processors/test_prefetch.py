"""A pipeline holds about eight batches of requests, however full its messages are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from broker.base import Consumer
from broker.messages import Delivery, Message
from broker.protocol.header import BodyForm, pack_head
from processors.prefetch import PrefetchWindow


class FakeConsumer:
    """Returns deliveries of a given fill, and records the sizes that it is given."""

    def __init__(self, fill: int) -> None:
        self.fill = fill
        self.sizes: list[int] = []

    async def take(self, limit: int) -> Sequence[Delivery]:
        message = Message(queue="q", body=b"", header=pack_head(BodyForm.BUNDLE, self.fill), count=self.fill)
        return [Delivery(message, number, 0, self) for number in range(min(limit, 4))]

    def resize(self, size: int) -> None:
        self.sizes.append(size)


async def taken(window: PrefetchWindow, consumer: FakeConsumer, times: int) -> None:
    for _ in range(times):
        await window.take(cast(Consumer, cast(Any, consumer)))


async def test_messages_that_are_whole_batches_need_no_other_size() -> None:
    window, consumer = PrefetchWindow(32), FakeConsumer(32)
    window.start()
    assert window.size == 8
    await taken(window, consumer, 20)
    assert (window.size, consumer.sizes) == (8, [])


async def test_messages_of_one_request_widen_the_window_slowly_up_to_the_limit() -> None:
    window, consumer = PrefetchWindow(32), FakeConsumer(1)
    window.start()
    await taken(window, consumer, 1)
    assert window.size < 10
    await taken(window, consumer, 200)
    assert window.size == 8 * 32
    assert consumer.sizes == sorted(consumer.sizes)


async def test_fuller_messages_narrow_the_window_at_once_and_the_consumer_only_if_far_too_much_is_held() -> None:
    window, consumer = PrefetchWindow(32), FakeConsumer(1)
    window.start()
    await taken(window, consumer, 200)
    consumer.sizes.clear()
    consumer.fill = 2
    await taken(window, consumer, 1)
    assert (window.size, consumer.sizes) == (128, [])
    consumer.fill = 32
    await taken(window, consumer, 1)
    assert (window.size, consumer.sizes) == (8, [8])
