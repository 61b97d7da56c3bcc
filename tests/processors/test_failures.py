"""What follows from what a model computed ends as `failed`; what follows from the request as `invalid`."""

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
from tests.processors.piping import bundled, piped, request
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
    asked = float(inputs["x"].ravel()[0])
    width = NUMBERS if asked == HUGE else 1
    shape = (len(inputs["x"]), width) if inputs["x"].ndim == 2 else (width,)
    text = np.full(inputs["x"].shape, b"\xff" if asked == NO_TEXT else b"fine", object)
    return {"y": np.full(shape, np.nan if asked == NAN else 0.123456, np.float32), "t": text}


def body(value: float, *, batched: bool, **more: Any) -> bytes:
    x = {**X, "shape": [1, 1] if batched else [1], "data": [value]}
    return orjson.dumps({"inputs": [x], **more})


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "single"])
@pytest.mark.parametrize("kind", ["embedded", "rabbitmq", "kafka"])
async def test_clients_of_the_queue_hear_of_answers_that_cannot_be_sent(
    tmp_path: Path, kind: str, batched: bool
) -> None:
    asked: dict[str, tuple[float, dict[str, Any], str, str]] = {
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
        for name, (value, more, _, _) in asked.items():
            await client.send(name, body=body(value, batched=batched, **more))
        answers = {str(answer.correlation_id): answer for answer in await client.answers(len(asked))}
        found = await rows(broker, "shop", len(asked))
    for name, (_, _, status, says) in asked.items():
        assert answers[name].headers["status"] == status, name
        assert says in str(orjson.loads(answers[name].body).get("error", "")), name
    assert sorted(row["status"] for row in found) == sorted(status for _, _, status, _ in asked.values())


@pytest.mark.parametrize("reply", [ReplyTo.GATEWAY, ReplyTo.CLIENT, ReplyTo.RESULTS])
async def test_whoever_waits_gets_the_size_and_the_limit_and_nothing_is_dropped(tmp_path: Path, reply: ReplyTo) -> None:
    async with piped(tmp_path, lambda inputs: {"y": texts(inputs), "z": inputs["x"]}, output="TYPE_STRING") as pipe:
        queue = pipe.broker.channels.results("e") if reply is ReplyTo.RESULTS else "waits"
        await pipe.broker.declare(queue)
        route = Route(endpoint="e", arm="v1", model="m", version=1, reply=reply, reply_to="waits")
        await pipe.put(bundled(pipe.pipeline.queue, [request(HUGE, route), request(FINE, route)]))
        await pipe.serve()
        answers = await pipe.waiting(queue)
        assert sum(answer.count for answer in answers) == 2
        told = b"".join(answer.body for answer in answers)
        assert b"at most %d can be sent" % ANSWER_LIMIT_BYTES in told
        assert max(len(answer.body) for answer in answers) < MESSAGE_LIMIT_BYTES
        assert sorted(row["status"] for row in await pipe.rows()) == ["failed", "ok"]
        assert pipe.pipeline.acks.held == 0


def texts(inputs: dict[str, Array]) -> Array:
    made = [b"x" * MESSAGE_LIMIT_BYTES if value == HUGE else b"fine" for value in inputs["x"].ravel().tolist()]
    return np.array(made, object).reshape(-1, 1)


async def test_the_largest_answer_that_fits_is_sent_to_everybody(tmp_path: Path) -> None:
    async with piped(tmp_path, lambda inputs: {"y": large(inputs), "z": inputs["x"]}, output="TYPE_STRING") as pipe:
        await pipe.broker.declare("waits")
        for reply in (ReplyTo.GATEWAY, ReplyTo.CLIENT):
            route = Route(endpoint="e", arm="v" * 63, model="m", version=1, reply=reply, reply_to="waits")
            await pipe.put(bundled(pipe.pipeline.queue, [request(1.0, route)]))
        await pipe.serve()
        answers: list[Message] = await pipe.waiting("waits")
        assert sorted(len(answer.body) > ANSWER_LIMIT_BYTES - 200 for answer in answers) == [True, True]
        assert {row["status"] for row in await pipe.rows()} == {"ok"}


def large(inputs: dict[str, Array]) -> Array:
    return np.array([b"x" * (ANSWER_LIMIT_BYTES - 200)] * len(inputs["x"]), object).reshape(-1, 1)


async def test_an_error_of_ours_that_a_model_raises_is_still_the_models(tmp_path: Path) -> None:
    def refuses(_: dict[str, Array]) -> dict[str, Array]:
        raise InvalidRequest("the model does not like it")

    async with piped(tmp_path, refuses) as pipe:
        await pipe.put(bundled(pipe.pipeline.queue, [request(1.0)]))
        await pipe.serve()
        [(status, answer)] = (await pipe.answers()).values()
        assert (status, answer["error"]) == ("failed", "model m failed: InvalidRequest: the model does not like it")
