"""Helpers of `test_ack_tracker.py` that other tests use, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from broker.channels import Channels
from broker.messages import Delivery, Message
from broker.sqlite.adapter import SqliteBroker


class RecordingBroker(SqliteBroker):
    """Records the acked tags instead of acking them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Channels())
        self.acked: list[list[int]] = []

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked.append([delivery.tag for delivery in deliveries])


def delivery(tag: int) -> Delivery:
    return Delivery(Message(queue="q", body=b""), tag, 0, None)
