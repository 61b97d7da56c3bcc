"""Answers that no queue accepts are dropped and counted, and logged from time to time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from broker.channels import Channels
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.reply_sender import WARN_EVERY_S, ReplySender
from broker.messages import SAFE, TOO_LARGE, Message, Outcome
from broker.protocol.answers import ANSWER_LIMIT_BYTES, error_body
from broker.protocol.header import ReplyTo, Request, Route, Status
from broker.protocol.ids import new_uid, now_us
from broker.sqlite.adapter import SqliteBroker
from tests.broker.delivery.test_ack_tracker import RecordingBroker, delivery

ROUTE = Route(endpoint="e", arm="v1", model="m", version=1, reply=ReplyTo.CLIENT, reply_to="gone")


def request(reply: ReplyTo) -> Request:
    return Request(route=replace(ROUTE, reply=reply), uid=new_uid(now_us()), accepted_us=0)


@pytest.mark.parametrize("reply", [ReplyTo.CLIENT, ReplyTo.GATEWAY, ReplyTo.RESULTS])
async def test_an_answer_without_a_queue_is_counted_and_settled(tmp_path: Path, reply: ReplyTo) -> None:
    counted: list[tuple[str, int]] = []
    async with RecordingBroker(tmp_path / "b.db") as broker:
        replies = ReplySender(broker, dropped=lambda *dropped: counted.append(dropped))
        acks = AckTracker(broker)
        replies.answer_one(request(reply), Status.FAILED, error_body("no"), acks.hold(delivery(1), 1), 0)
        await replies.outbox.drain()
        await acks.drain()
        assert broker.acked == [[1]]
    assert counted == [("no such queue", 1)]


async def test_dropped_answers_are_logged_with_their_reason_at_most_every_30_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [1000.0]
    async with SqliteBroker(tmp_path / "b.db", Channels()) as broker:
        replies = ReplySender(broker, dropped=lambda *_: None, clock=lambda: now_s[0])
        acks = AckTracker(broker)
        with caplog.at_level(logging.WARNING, "broker.delivery.reply_sender"):
            for pause_s in (0.0, 1.0, WARN_EVERY_S - 1.5, 1.0):
                now_s[0] += pause_s
                hold = acks.hold(delivery(1), 2)  # never acked: this is about answers
                replies.answer_one(request(ReplyTo.CLIENT), Status.FAILED, error_body("no"), hold, 0)
                await replies.outbox.drain()
    assert [record.getMessage() for record in caplog.records] == [
        f"{number} answers were dropped, the last one because: no such queue" for number in (1, 3)
    ]


class Small(RecordingBroker):
    """Refuses long messages, as a Kafka topic can."""

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        self.__dict__.setdefault("seen", []).extend(messages)
        return [TOO_LARGE if len(message.body) > 1000 else SAFE for message in messages]


async def test_an_answer_that_its_queue_refuses_as_too_large_becomes_an_error_with_its_size(tmp_path: Path) -> None:
    async with Small(tmp_path / "b.db") as broker:
        replies, acks = ReplySender(broker, dropped=lambda *dropped: pytest.fail(str(dropped))), AckTracker(broker)
        replies.answer(
            [(request(ReplyTo.CLIENT), (b"x" * 2000, None), acks.hold(delivery(1), 1), (0, 0, 0))], Status.OK
        )
        await replies.outbox.drain()
        await acks.drain()
        assert broker.acked == [[1]]
        refused, error = broker.__dict__["seen"]
    assert (refused.headers["status"], error.headers["status"]) == ("ok", "failed")
    assert error.message_id == refused.message_id
    assert error.body == error_body("the answer has 2000 bytes, which is more than gone takes")


@pytest.mark.parametrize("reply", [ReplyTo.CLIENT, ReplyTo.GATEWAY, ReplyTo.RESULTS])
async def test_an_answer_that_is_too_large_for_a_message_becomes_an_error(tmp_path: Path, reply: ReplyTo) -> None:
    """For example, a merged list can be larger than each ranker's answer."""
    async with RecordingBroker(tmp_path / "b.db") as broker:
        queue = broker.channels.results("e") if reply is ReplyTo.RESULTS else "gone"
        await broker.declare(queue)
        replies, acks = ReplySender(broker, dropped=lambda *dropped: pytest.fail(str(dropped))), AckTracker(broker)
        body = b"x" * (ANSWER_LIMIT_BYTES + 1)
        replies.answer([(request(reply), (body, None), acks.hold(delivery(1), 1), (0, 0, 0))], Status.OK)
        await replies.outbox.drain()
        await acks.drain()
        consumer = broker.consume(queue, 1)
        [answer] = await consumer.take(1)
        await consumer.stop()
        assert broker.acked == [[1]]
    assert b"the answer has %d bytes, and at most %d can be sent" % (len(body), len(body) - 1) in answer.message.body
