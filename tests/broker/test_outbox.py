"""What the outbox publishes again, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.messages import FULL, SAFE, Message, Outcome
from broker.outbox import Outbox
from broker.sqlite.adapter import SqliteBroker

MESSAGE = Message(queue="q", body=b"x")


class FullBroker(SqliteBroker):
    """Refuses the first `refusals` publishes as full; says that nobody's are taken if `blocked`."""

    def __init__(self, path: Path, refusals: int, *, blocked: bool) -> None:
        super().__init__(path, Channels())
        self._refusals = refusals
        self._blocked = blocked

    @property
    def blocked(self) -> bool:
        return self._blocked

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        self._refusals -= 1
        return [FULL if self._refusals >= 0 else SAFE] * len(messages)


@pytest.mark.parametrize(("blocked", "outcome"), [(False, FULL), (True, SAFE)])
async def test_patience_runs_out_with_a_full_queue_and_not_with_a_blocked_broker(
    tmp_path: Path, blocked: bool, outcome: Outcome
) -> None:
    heard: list[Outcome] = []
    async with FullBroker(tmp_path / "broker.db", 3, blocked=blocked) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, said: heard.append(said), patience_s=0.01, patience_full_s=0.01)
        outbox.put_message(MESSAGE, 1)
        async with asyncio.timeout(10):
            await outbox.drain()
    assert heard == [outcome]
