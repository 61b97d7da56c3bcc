"""The outbox publishes some messages again, for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.delivery.outbox import Outbox
from broker.messages import FULL, SAFE, UNKNOWN, Message, Outcome
from broker.sqlite.adapter import SqliteBroker

MESSAGE = Message(queue="q", body=b"x")


class Scripted(SqliteBroker):
    """Returns the outcomes of its script, then SAFE; `blocked` is its answer for the broker as a whole."""

    def __init__(self, path: Path, script: Sequence[Outcome], *, blocked: bool = False) -> None:
        super().__init__(path, Channels())
        self._script = list(script)
        self._blocked = blocked

    @property
    def blocked(self) -> bool:
        return self._blocked

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self._script.pop(0) if self._script else SAFE] * len(messages)


@pytest.mark.parametrize(("blocked", "outcome"), [(False, FULL), (True, SAFE)])
async def test_patience_ends_for_a_full_queue_and_not_for_a_blocked_broker(
    tmp_path: Path, blocked: bool, outcome: Outcome
) -> None:
    outcomes: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [FULL] * 3, blocked=blocked) as broker:
        outbox: Outbox[int] = Outbox(
            broker, lambda _, outcome: outcomes.append(outcome), patience_s=0.01, patience_full_s=0.01
        )
        outbox.put_message(MESSAGE, 1)
        async with asyncio.timeout(10):
            await outbox.drain()
    assert outcomes == [outcome]


async def test_a_message_whose_outcome_was_unknown_is_never_refused(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [UNKNOWN] + [FULL] * 10) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, outcome: outcomes.append(outcome), patience_s=0.01)
        outbox.put_message(MESSAGE, 1)
        async with asyncio.timeout(10):
            await outbox.drain()
    assert outcomes == [UNKNOWN]


async def test_drain_waits_for_messages_that_are_published_again(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [UNKNOWN, UNKNOWN]) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, outcome: outcomes.append(outcome))
        outbox.put_message(MESSAGE, 1)
        while outbox.unsent:  # noqa: ASYNC110 - until the first attempt is over
            await asyncio.sleep(0)
        assert outcomes == []
        async with asyncio.timeout(10):
            await outbox.drain()
    assert outcomes == [SAFE]
