"""A fault of the model ends a request as `failed`, a fault of the request as `invalid`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from broker.errors import InvalidRequest
from broker.messages import MESSAGE_LIMIT_BYTES, Message
from broker.protocol.answers import ANSWER_LIMIT_BYTES
from broker.protocol.header import ReplyTo, Route
from broker.tensor.datatypes import Array
from tests.arms import X, processing, rows
from tests.processors.pipeline_harness import bundled, request, running_pipeline
from tests.router.queueing import any_broker, routing

WIDE = """
    backend: "python" max_batch_size: %d
    input { name: "x" data_type: TYPE_FP32 dims: 1 }
    output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
    output { name: "t" data_type: TYPE_STRING dims: 1 }
"""
ALL_TO_V1 = {"split": {"v1": 100, "v2": 0}}
HUGE, NAN, NO_TEXT, FINE = 7.0, 8.0, 9.0, 1.0
NUMBERS = 3_000_000


def compute(inputs: dict[str, Array]) -> dict[str, Array]:
    value = float(inputs["x"].ravel()[0])
    width = NUMBERS if value == HUGE else 1
    shape = (len(inputs["x"]), width) if inputs["x"].ndim == 2 else (width,)
    text = np.full(inputs["x"].shape, b"\xff" if value == NO_TEXT else b"fine", object)
    return {"y": np.full(shape, np.nan if value == NAN else 0.123456, np.float32), "t": text}


def body(value: float, *, batched: bool, **more: Any) -> bytes:
    x = {**X, "shape": [1, 1] if batched else [1], "data": [value]}
    return orjson.dumps({"inputs": [x], **more})


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "single"])
@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_clients_of_the_queue_get_an_error_for_an_answer_that_cannot_be_sent(
    tmp_path: Path, kind: str, batched: bool
) -> None:
    cases: dict[str, tuple[float, dict[str, Any], str, str]] = {
        "fine": (FINE, {}, "ok", ""),
        "huge": (HUGE, {}, "failed", f"at most {ANSWER_LIMIT_BYTES} can be sent"),
        "huge-binary": (HUGE, {"parameters": {"binary_data_output": True}}, "failed", "the answer has 12000"),
        "nan": (NAN, {}, "failed", "the model's output y holds NaN or infinity"),
        "no-text": (NO_TEXT, {}, "failed", "the model's output t holds bytes that are not UTF-8"),
        "no-output": (FINE, {"outputs": [{"name": "z"}]}, "invalid", "output 'z' is not one of the model's"),
    }
    async with (
        any_broker(kind, tmp_path) as broker,
        processing(broker, {1: compute}, WIDE % batched),
        routing(broker, ALL_TO_V1) as client,
    ):
        for name, (value, more, _, _) in cases.items():
            await client.send(name, body=body(value, batched=batched, **more))
        answers = {str(answer.correlation_id): answer for answer in await client.answers(len(cases))}
        found = await rows(broker, "shop", len(cases))
    for name, (_, _, status, message) in cases.items():
        assert answers[name].headers["status"] == status, name
        assert message in str(orjson.loads(answers[name].body).get("error", "")), name
    assert sorted(row["status"] for row in found) == sorted(status for _, _, status, _ in cases.values())


@pytest.mark.parametrize("reply", [ReplyTo.GATEWAY, ReplyTo.CLIENT, ReplyTo.RESULTS])
async def test_an_answer_over_the_limit_becomes_an_error_with_size_and_limit(tmp_path: Path, reply: ReplyTo) -> None:
    async with running_pipeline(
        tmp_path, lambda inputs: {"y": texts(inputs), "z": inputs["x"]}, output="TYPE_STRING"
    ) as harness:
        queue = harness.broker.channels.results("e") if reply is ReplyTo.RESULTS else "waits"
        await harness.broker.declare(queue)
        route = Route(endpoint="e", arm="v1", model="m", version=1, reply=reply, reply_to="waits")
        await harness.publish(bundled(harness.pipeline.queue, [request(HUGE, route), request(FINE, route)]))
        await harness.serve()
        answers = await harness.take_all(queue)
        assert sum(answer.count for answer in answers) == 2
        sent = b"".join(answer.body for answer in answers)
        assert b"at most %d can be sent" % ANSWER_LIMIT_BYTES in sent
        assert max(len(answer.body) for answer in answers) < MESSAGE_LIMIT_BYTES
        assert sorted(row["status"] for row in await harness.rows()) == ["failed", "ok"]
        assert harness.pipeline.acks.held == 0


def texts(inputs: dict[str, Array]) -> Array:
    made = [b"x" * MESSAGE_LIMIT_BYTES if value == HUGE else b"fine" for value in inputs["x"].ravel().tolist()]
    return np.array(made, object).reshape(-1, 1)


async def test_the_largest_answer_that_fits_is_sent_to_gateways_and_clients(tmp_path: Path) -> None:
    async with running_pipeline(
        tmp_path, lambda inputs: {"y": large(inputs), "z": inputs["x"]}, output="TYPE_STRING"
    ) as harness:
        await harness.broker.declare("waits")
        for reply in (ReplyTo.GATEWAY, ReplyTo.CLIENT):
            route = Route(endpoint="e", arm="v" * 63, model="m", version=1, reply=reply, reply_to="waits")
            await harness.publish(bundled(harness.pipeline.queue, [request(1.0, route)]))
        await harness.serve()
        answers: list[Message] = await harness.take_all("waits")
        assert sorted(len(answer.body) > ANSWER_LIMIT_BYTES - 200 for answer in answers) == [True, True]
        assert {row["status"] for row in await harness.rows()} == {"ok"}


def large(inputs: dict[str, Array]) -> Array:
    return np.array([b"x" * (ANSWER_LIMIT_BYTES - 200)] * len(inputs["x"]), object).reshape(-1, 1)


async def test_an_error_class_of_ours_raised_by_a_model_counts_as_a_failure_of_the_model(tmp_path: Path) -> None:
    def refuses(_: dict[str, Array]) -> dict[str, Array]:
        raise InvalidRequest("the model does not like it")

    async with running_pipeline(tmp_path, refuses) as harness:
        await harness.publish(bundled(harness.pipeline.queue, [request(1.0)]))
        await harness.serve()
        [(status, answer)] = (await harness.answers()).values()
        assert (status, answer["error"]) == ("failed", "model m failed: InvalidRequest: the model does not like it")
