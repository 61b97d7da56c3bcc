"""What the outbox publishes again, and for how long."""

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
    """Answers publishes as the script says, then with safe; `blocked`: it says that it takes nothing from anybody."""

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
async def test_patience_runs_out_with_a_full_queue_and_not_with_a_blocked_broker(
    tmp_path: Path, blocked: bool, outcome: Outcome
) -> None:
    heard: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [FULL] * 3, blocked=blocked) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, said: heard.append(said), patience_s=0.01, patience_full_s=0.01)
        outbox.put_message(MESSAGE, 1)
        async with asyncio.timeout(10):
            await outbox.drain()
    assert heard == [outcome]


async def test_what_was_unknown_once_is_never_called_refused(tmp_path: Path) -> None:
    heard: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [UNKNOWN] + [FULL] * 10) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, said: heard.append(said), patience_s=0.01)
        outbox.put_message(MESSAGE, 1)
        async with asyncio.timeout(10):
            await outbox.drain()
    assert heard == [UNKNOWN]


async def test_what_is_tried_again_is_waited_for(tmp_path: Path) -> None:
    heard: list[Outcome] = []
    async with Scripted(tmp_path / "broker.db", [UNKNOWN, UNKNOWN]) as broker:
        outbox: Outbox[int] = Outbox(broker, lambda _, said: heard.append(said))
        outbox.put_message(MESSAGE, 1)
        while outbox.unsent:  # noqa: ASYNC110 - until the first attempt is over
            await asyncio.sleep(0)
        assert heard == []
        async with asyncio.timeout(10):
            await outbox.drain()
    assert heard == [SAFE]
