"""The plan of a queue client's message: its arm, and the arm's probability."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cramjam
import orjson
import pytest

from broker.channels import Channels
from broker.errors import Unavailable
from broker.messages import NO_HEADERS, Delivery, Message, Record
from broker.protocol.bundle import requests_in
from broker.protocol.ids import derived_uid, now_us
from broker.records.agreement import Agreement, write_agreement
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.records.status import Announcement, write_announcement
from router.service.planning import plan
from router.state.view import View
from tests.router.queueing import BODY, any_broker, routing

CHANNELS = Channels()
SHARES = {"a": 0.7, "b": 0.2, "c": 0.1}


def test_a_request_of_a_queue_client_carries_the_probability_of_its_arm() -> None:
    view = View(b"secret")
    data = {"endpoint": "e", "arms": {arm: f"m-{arm}@1" for arm in SHARES}, "policy": {"split": SHARES}}
    view.fold_declared(Record(0, endpoint_declared(read_endpoint(data, source="test"), "test"), NO_HEADERS))
    for place, arm in enumerate(SHARES):
        ready = Announcement(instance=arm, part="replica", state="ready", at_us=now_us(), model=f"m-{arm}", version=1)
        view.fold_status(Record(place, write_announcement(ready), NO_HEADERS))
    drawn = set()
    for number in range(100):
        delivery = Delivery(Message(queue=CHANNELS.requests("e"), body=b"{}"), number, 0, None)
        uid = derived_uid(str(number).encode())
        planned = plan(delivery, uid, now_us(), endpoint="e", view=view, channels=CHANNELS, answers="answers")
        request = planned.request
        assert (request.uid, request.route.mask, request.route.snapshot) == (uid, 0b111, 0)
        drawn.add((request.route.arm, request.route.model, round(request.propensity, 12)))
    assert drawn == {(arm, f"m-{arm}", share) for arm, share in SHARES.items()}


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_a_queue_clients_compressed_body_is_forwarded_without_its_compression(kind: str, tmp_path: Path) -> None:
    packed = {
        "gzip": gzip.compress(BODY),
        "deflate": zlib.compress(BODY),
        "zstd": bytes(cramjam.zstd.compress(BODY)),
        "utf-8": BODY,
    }
    async with any_broker(kind, tmp_path) as broker, routing(broker, {"split": ["v1"]}) as client:
        inputs = broker.channels.inputs("m", 1)
        await broker.declare(inputs)
        consumer = broker.consume(inputs, 10)
        for encoding, body in packed.items():
            await client.send(encoding, body=body, content_encoding=encoding)
            deliveries = await consumer.take(10)
            assert [one.body for it in deliveries for one in requests_in(it.message)] == [BODY], encoding
            await broker.ack(deliveries)
        await consumer.stop()


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_a_queue_clients_body_that_is_wrong_or_too_large_unpacked_is_invalid(kind: str, tmp_path: Path) -> None:
    wrong = {
        "bomb": ("gzip", gzip.compress(b"\0" * 20_000_000)),
        "cut": ("zstd", bytes(cramjam.zstd.compress(BODY))[:-3]),
        "unknown": ("br", BODY),
    }
    async with any_broker(kind, tmp_path) as broker, routing(broker, {"split": ["v1"]}) as client:
        for name, (encoding, body) in wrong.items():
            await client.send(name, body=body, content_encoding=encoding)
        data = {str(it.correlation_id): it for it in await client.answers(3)}
        assert {it.headers["status"] for it in data.values()} == {"invalid"}
        assert "more than 8323072 bytes" in orjson.loads(data["bomb"].body)["error"]
        assert "not complete zstd" in orjson.loads(data["cut"].body)["error"]
        assert "gzip, deflate or zstd" in orjson.loads(data["unknown"].body)["error"]


def test_a_request_with_a_key_is_refused_where_another_assignment_key_counts() -> None:
    view = View(b"secret")
    own = Agreement(key="mine", is_key_given=False, started_us=2)
    view.members.introduce("router-test", own)
    data = {"endpoint": "e", "arms": {"a": "m@1"}, "key": "header", "policy": {"split": ["a"], "sticky": True}}
    view.fold_declared(Record(0, endpoint_declared(read_endpoint(data, source="test"), "test"), NO_HEADERS))
    older = Announcement(
        instance="router-older",
        part="router",
        state="ready",
        at_us=now_us(),
        full=write_agreement(replace(own, key="theirs", started_us=1)),
    )
    view.fold_status(Record(0, write_announcement(older), NO_HEADERS))

    def planned(headers: dict[str, Any]) -> None:
        message = Message(queue=CHANNELS.requests("e"), body=b"{}", headers=headers)
        uid = derived_uid(b"1")
        plan(Delivery(message, 1, 0, None), uid, now_us(), endpoint="e", view=view, channels=CHANNELS, answers="a")

    planned({})
    with pytest.raises(Unavailable, match="router-older has another assignment key"):
        planned({"key": "ann"})
