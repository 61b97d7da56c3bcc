"""A gateway whose answers cannot arrive knows it within seconds, and no request hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.base import Consumer
from broker.channels import Channels
from broker.errors import Unavailable
from broker.messages import Delivery
from broker.sqlite.adapter import SqliteBroker
from gateway.core.answer_queue import TROUBLED_S, AnswerQueue
from gateway.core.pending import PendingRequests
from tests.gateway.running_gateway import running_gateway

TROUBLE = "millrace.answers.g cannot be consumed"


class TroubledConsumer(Consumer):
    """A consumer with a trouble that a test sets."""

    def __init__(self, inner: Consumer, broker: TroubledBroker) -> None:
        self._inner = inner
        self._broker = broker

    @property
    def trouble(self) -> str:
        return self._broker.trouble

    async def take(self, limit: int) -> list[Delivery]:
        return await self._inner.take(limit)

    async def stop(self) -> None:
        await self._inner.stop()

    def resize(self, prefetch: int) -> None:
        self._inner.resize(prefetch)


class TroubledBroker(SqliteBroker):
    """Its consumers of answers have a trouble."""

    trouble = ""

    def consume(self, queue: str, prefetch: int) -> Consumer:
        consumer = super().consume(queue, prefetch)
        return TroubledConsumer(consumer, self) if ".answers." in queue else consumer


async def test_a_trouble_of_two_seconds_counts_and_a_shorter_one_does_not(tmp_path: Path) -> None:
    now_s = 100.0
    async with TroubledBroker(tmp_path / "broker.db", Channels()) as broker:
        answers = AnswerQueue(broker, broker.channels.answers("g"), lambda _: None, clock=lambda: now_s)
        await answers.open()
        assert answers.trouble() == ""
        broker.trouble = TROUBLE
        now_s += TROUBLED_S - 0.1
        assert answers.trouble() == ""
        now_s += 0.2
        assert answers.trouble() == TROUBLE
        broker.trouble = ""
        assert answers.trouble() == ""
        broker.trouble = TROUBLE
        assert answers.trouble() == ""  # a new trouble
        await answers.close()


async def test_no_request_is_taken_while_no_answer_can_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteBroker(tmp_path / "broker.db", Channels()) as broker:
        pending = PendingRequests(broker, broker.channels.answers("g"), limit=10)
        await pending.open()
        monkeypatch.setattr(pending.answers, "trouble", lambda: TROUBLE)
        with pytest.raises(Unavailable, match=TROUBLE):
            pending.expect(b"uid", 1.0, ("m", 1))
        await pending.close()


async def test_a_gateway_without_answers_is_unready_with_the_reason(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, broker_class=TroubledBroker) as gateway:
        assert isinstance(gateway.broker, TroubledBroker)
        gateway.broker.trouble = TROUBLE
        assert TROUBLE in (await gateway.until("/v2/health/ready", 503)).text
        gateway.broker.trouble = ""
        await gateway.until("/v2/health/ready", 200)
