"""A delivery is acked after all of its answers and rows are confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from broker.delivery.ack_tracker import AckTracker
from broker.errors import DiskFull
from broker.messages import Delivery
from tests.broker.delivery.deliveries import RecordingBroker, delivery


async def test_a_delivery_waits_for_the_last_of_its_answers_and_rows(tmp_path: Path) -> None:
    async with RecordingBroker(tmp_path / "b.db") as broker:
        acks = AckTracker(broker)
        hold = acks.hold(delivery(1), 4)
        for _ in range(3):
            hold.settle()
            await acks.drain()
            assert broker.acked == []
            assert acks.held == 1
        hold.settle()
        await acks.drain()
        assert broker.acked == [[1]]
        assert acks.held == 0


async def test_deliveries_that_are_done_in_one_turn_are_acked_in_one_call(tmp_path: Path) -> None:
    async with RecordingBroker(tmp_path / "b.db") as broker:
        acks = AckTracker(broker)
        for hold in [acks.hold(delivery(tag), 1) for tag in range(5)]:
            hold.settle()
        await asyncio.sleep(0)
        await acks.drain()
        assert broker.acked == [[0, 1, 2, 3, 4]]


class Locked(RecordingBroker):
    """Accepts an ack at the second attempt."""

    tries = 0

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise DiskFull("the disk is full")
        await super().ack(deliveries)


async def test_an_ack_that_the_broker_does_not_take_now_is_tried_again(tmp_path: Path) -> None:
    async with Locked(tmp_path / "b.db") as broker:
        acks = AckTracker(broker)
        acks.hold(delivery(1), 1).settle()
        await acks.drain()
        assert (broker.acked, broker.tries) == ([[1]], 2)
