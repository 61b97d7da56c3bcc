"""A delivery is acked when all that depends on it is settled, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.delivery.ack_tracker import AckTracker
from broker.errors import DiskFull
from broker.messages import Delivery, Message
from broker.sqlite.adapter import SqliteBroker


class Noting(SqliteBroker):
    """Notes what is acked instead of doing it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Channels())
        self.acked: list[list[int]] = []

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked.append([delivery.tag for delivery in deliveries])


def delivery(tag: int) -> Delivery:
    return Delivery(Message(queue="q", body=b""), tag, 0, None)


async def test_a_delivery_waits_for_the_last_of_its_answers_and_rows(tmp_path: Path) -> None:
    async with Noting(tmp_path / "b.db") as broker:
        settling = AckTracker(broker)
        hold = settling.hold(delivery(1), 4)
        for _ in range(3):
            hold.settle()
            await settling.drain()
            assert broker.acked == []
            assert settling.held == 1
        hold.settle()
        await settling.drain()
        assert broker.acked == [[1]]
        assert settling.held == 0


async def test_what_is_done_in_one_turn_is_acked_in_one_call(tmp_path: Path) -> None:
    async with Noting(tmp_path / "b.db") as broker:
        settling = AckTracker(broker)
        for hold in [settling.hold(delivery(tag), 1) for tag in range(5)]:
            hold.settle()
        await asyncio.sleep(0)
        await settling.drain()
        assert broker.acked == [[0, 1, 2, 3, 4]]


class Locked(Noting):
    """Takes an ack at the second try."""

    tries = 0

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise DiskFull("the disk is full")
        await super().ack(deliveries)


async def test_an_ack_that_the_broker_does_not_take_now_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.delivery.ack_tracker.PAUSE_S", 0.0)
    async with Locked(tmp_path / "b.db") as broker:
        settling = AckTracker(broker)
        settling.hold(delivery(1), 1).settle()
        await settling.drain()
        assert (broker.acked, broker.tries) == ([[1]], 2)
