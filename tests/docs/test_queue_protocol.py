"""docs/queue-protocol.md: real bytes are parsed with its tables, and its example runs."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from broker.base import MESSAGE_LIMIT_BYTES, Broker
from broker.channels import Channels
from broker.delivery.ack_tracker import AckTracker
from broker.delivery.reply_sender import ReplySender
from broker.messages import Message
from broker.protocol.answers import plain
from broker.protocol.bundle import BUNDLE_LIMIT_BYTES, requests_in
from broker.protocol.header import (
    BY_WORD,
    BodyForm,
    ReplyTo,
    Request,
    Route,
    Status,
    pack_answer,
    pack_head,
    pack_route,
    pack_ticket,
)
from broker.protocol.ids import new_uid, now_us
from broker.rabbitmq.adapter import RabbitBroker
from broker.records.merges import Merge, write_merge
from broker.records.status import Announcement, write_announcement
from broker.tensor.datatypes import DTYPES
from broker.tensor.outputs import encode
from broker.tensor.tensors import decode
from router.drawing.keys import KEY_CHARACTERS
from router.service.intake import TIMEOUT_LIMIT_MS, read_headers
from router.service.run import RouterSettings, run
from tests.servers import rabbitmq_url

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "queue-protocol.md").read_text()
ASYNC = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i", "i64": "q", "f64": "d", "bytes(16)": "16s"}
ROUTE = Route(
    endpoint="fraud",
    arm="b",
    model="trees",
    version=3,
    snapshot=2**40,
    mask=5,
    policy="split",
    tenant="me",
    reply=ReplyTo.CLIENT,
    reply_to="mine",
    leg=2,
)
UID = new_uid(now_us())
REQUEST = Request(
    route=ROUTE,
    uid=UID,
    accepted_us=11,
    deadline_us=12,
    propensity=0.25,
    json_length=13,
    attempts=14,
    key="key",
    correlation="correlation",
    trace="trace",
    extra=b"{}",
    body=b"body",
)


def rows(after: str) -> list[list[str]]:
    """The cells of the first table after a text."""
    lines = TEXT.split(after, 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table[2:]]


def read(name: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Parse a struct with its table; returns its fields and the bytes after it."""
    size = int(re.search(rf"<!-- struct {name} (\d+) -->", TEXT)[1])  # type: ignore[index]
    table = rows(f"<!-- struct {name} ")
    layout = struct.Struct("<" + "".join(CODES[kind] for _, kind, _, _ in table))
    offsets = [struct.calcsize("<" + "".join(CODES[row[1]] for row in table[:number])) for number in range(len(table))]
    assert [int(row[0]) for row in table] == offsets
    assert layout.size == size
    return dict(zip([row[2] for row in table], layout.unpack_from(data), strict=True)), data[size:]


def texts(fields: dict[str, Any], data: bytes) -> tuple[dict[str, bytes], bytes]:
    """Parse the texts after a struct, in the order of its length fields (without the body); returns the rest too."""
    found = {}
    for name, length in fields.items():
        if name.endswith("_length") and name not in ("json_length", "body_length"):
            found[name.removesuffix("_length")], data = data[:length], data[length:]
    return found, data


def test_the_head_is_as_described() -> None:
    fields, rest = read("head", pack_head(BodyForm.BUNDLE, 513, b"shared"))
    assert fields == {"version": 1, "form": 1, "count": 513, "shared_length": 6}
    assert rest == b"shared"


def test_the_route_is_as_described() -> None:
    fields, rest = read("route", pack_route(ROUTE))
    assert {name: fields[name] for name in ("reply", "version", "snapshot", "mask", "leg")} == {
        "reply": 1,
        "version": 3,
        "snapshot": 2**40,
        "mask": 5,
        "leg": 2,
    }
    found, rest = texts(fields, rest)
    assert found == {
        "endpoint": b"fraud",
        "arm": b"b",
        "model": b"trees",
        "policy": b"split",
        "tenant": b"me",
        "reply_to": b"mine",
    }
    assert rest == b""


def test_the_ticket_is_as_described() -> None:
    fields, rest = read("ticket", pack_ticket(REQUEST, 4))
    assert (fields["uid"], fields["accepted_us"], fields["deadline_us"], fields["propensity"]) == (UID, 11, 12, 0.25)
    assert (fields["json_length"], fields["attempts"], fields["reserved"], fields["body_length"]) == (13, 14, 0, 4)
    found, rest = texts(fields, rest)
    assert found == {"key": b"key", "correlation": b"correlation", "trace": b"trace", "extra": b"{}"}
    assert rest == b""
    assert read("ticket", pack_ticket(REQUEST._replace(json_length=None), 4))[0]["json_length"] == -1


def test_the_answer_is_as_described() -> None:
    fields, rest = read("answer", pack_answer(UID, Status.FAILED, b"b", 3, None, (7, 8, 9), 4))
    assert fields == {
        "uid": UID,
        "status": 3,
        "version": 3,
        "json_length": -1,
        "queued_us": 7,
        "batched_us": 8,
        "computed_us": 9,
        "arm_length": 1,
        "body_length": 4,
    }
    assert rest == b"b"


def test_the_numbers_of_words_are_as_described() -> None:
    assert [(int(row[0]), row[1]) for row in rows("which follows |\n")] == [
        (form.value, form.name) for form in BodyForm
    ]
    assert [(int(row[0]), row[1]) for row in rows("| 35 | u16 | reply_to_length | |\n")] == [
        (reply.value, reply.name) for reply in ReplyTo
    ]
    assert [(int(row[0]), row[1]) for row in rows("| 39 | u32 | body_length | |\n")] == [
        (status.value, word) for word, status in BY_WORD.items()
    ]


def test_the_merge_record_is_as_described() -> None:
    merge = Merge(
        uid=UID,
        key="",
        policy="",
        snapshot=0,
        mask=0,
        method="",
        rankers=("v1",),
        used=("v1",),
        items=(),
        ranks=(),
        credits=(),
        accepted_us=0,
        at_us=0,
    )
    body, headers = write_merge(merge)
    assert f"`cloudEvents_type` = `{headers['cloudEvents_type']}`" in TEXT
    described = [name.strip("` ") for row in rows("`millrace.merge.v1`:\n") for name in row[0].split(",")]
    assert sorted(described) == sorted(json.loads(body))


def test_the_limits_are_as_described() -> None:
    text = " ".join(TEXT.split())
    assert f"up to {KEY_CHARACTERS} characters" in text
    assert f"1 to {TIMEOUT_LIMIT_MS}" in text
    assert f"may have {MESSAGE_LIMIT_BYTES >> 20} MiB" in text
    assert f"{BUNDLE_LIMIT_BYTES >> 10} KiB" in text


def test_every_status_is_described() -> None:
    assert [row[0] for row in rows("| headers `cloudEvents_*` (on Kafka `ce_*`) | if the request had some")] == list(
        BY_WORD
    )


def test_all_references_in_the_asyncapi_file_exist() -> None:
    for reference in re.findall(r'\$ref: "#/([^"]+)"', (DOCS / "asyncapi.yaml").read_text()):
        place = ASYNC
        for part in reference.split("/"):
            place = place[part]


def test_the_asyncapi_file_has_our_channels_statuses_and_limits() -> None:
    channels, schemas = Channels(), ASYNC["components"]["schemas"]
    assert ASYNC["channels"]["requests"]["address"] == channels.requests("{endpoint}")
    assert ASYNC["channels"]["results"]["address"] == channels.results("{endpoint}")
    assert schemas["AnswerHeaders"]["properties"]["status"]["enum"] == list(BY_WORD)
    assert schemas["Tensor"]["properties"]["datatype"]["enum"] == list(DTYPES)
    limits = schemas["RequestHeaders"]["properties"]
    assert (limits["timeout_ms"]["maximum"], limits["key"]["maxLength"]) == (TIMEOUT_LIMIT_MS, KEY_CHARACTERS)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("json_length", [None, 7])
def test_a_real_answer_has_the_headers_that_the_asyncapi_file_names(json_length: int | None) -> None:
    extra = b'{"cloud_events": {"id": "1"}}'
    message = plain("q", REQUEST._replace(extra=extra), Status.OK, b"{}", json_length)
    given = {
        **message.headers,
        "correlation_id": message.correlation_id,
        "message_id": message.message_id,
        "content_type": message.content_type,
    }
    schema = ASYNC["components"]["schemas"]["AnswerHeaders"]
    Draft202012Validator({**schema, "additionalProperties": False}).validate(given)


async def test_the_example_runs() -> None:
    url, prefix = rabbitmq_url(), f"docs-{uuid4().hex[:8]}."
    async with RabbitBroker(url, Channels(prefix)) as broker:
        names, stop = broker.channels, asyncio.Event()
        for channel in (names.inputs("double", 1), names.requests("double"), names.status):
            await broker.declare(channel)
        announcement = Announcement(
            instance="r",
            part="replica",
            state="ready",
            at_us=now_us(),
            model="double",
            version=1,
        )
        await broker.append(broker.channels.status, [write_announcement(announcement)])
        router = asyncio.create_task(
            run(broker, RouterSettings(instance="router-docs"), b"key", CollectorRegistry(), stop)
        )
        processor = asyncio.create_task(_double(broker))
        try:
            async with asyncio.timeout(30):
                found = await asyncio.to_thread(_run_example, url, prefix)
        finally:
            stop.set()
            await asyncio.gather(router, return_exceptions=True)
            processor.cancel()
            await _clean(broker)
    assert found["status"] == "ok"
    assert found["answer"]["outputs"][0]["data"] == [2.0, 4.0]
    assert found["properties"].correlation_id == "order-7"


def _run_example(url: str, prefix: str) -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("amqp://guest:guest@localhost:5672/", url).replace("millrace.requests", f"{prefix}requests")
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the code of our own page
    return namespace


async def _double(broker: Broker) -> None:
    consumer = broker.consume(broker.channels.inputs("double", 1), 10)
    answering, settling = ReplySender(broker, dropped=lambda *_: None), AckTracker(broker)
    while deliveries := await consumer.take(10):
        for delivery in deliveries:
            for request in requests_in(delivery.message):
                inputs = decode(request.body, request.json_length)
                outputs = {"y": inputs.tensors["x"] * 2}
                result = encode(outputs, head=inputs.head, model="double", version="1")
                answering.answer([(request, result, settling.hold(delivery, 1), (0, 0, 0))], Status.OK)


async def _clean(broker: Broker) -> None:
    names = broker.channels
    for channel in (
        names.declared,
        names.status,
        names.inputs("double", 1),
        names.requests("double"),
        names.results("double"),
        names.events("double"),
    ):
        await broker.delete(channel)


def test_all_headers_that_the_router_reads_are_described() -> None:
    described = "\n".join(row[0] for row in rows("### Request\n"))
    body = b'{"inputs": []}'
    headers = {
        "timeout_ms": 5,
        "inference-header-content-length": 3,
        "key": "k",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "tracestate": "a=1",
        "cloudEvents_id": "7",
    }
    parsed = read_headers(Message(queue="q", body=body, headers=headers), Channels())
    assert (parsed.timeout_ms, parsed.json_length, parsed.key, parsed.trace) == (5, 3, "k", headers["traceparent"])
    assert json.loads(parsed.extra) == {"tracestate": "a=1", "cloud_events": {"id": "7"}}
    for name in headers:
        assert name.replace("cloudEvents_id", "cloudEvents_*") in described


def test_the_body_of_the_page_is_a_request() -> None:
    (body,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert decode(body.encode(), None).tensors["x"].tolist() == [[1.0, 2.0]]
