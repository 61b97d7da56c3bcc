"""The half that goes by HTTP, as any client of the Open Inference Protocol sends it, and the feedback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import orjson

from broker.errors import MillraceError
from deploy.demo.digits import Array, Digits
from deploy.demo.folder import ENDPOINT, INPUT, OUTPUT
from deploy.demo.http_client import Connection, Response, connected
from deploy.demo.tally import Answer, Tally

CONNECTIONS = 32
JSON_LENGTH = "inference-header-content-length"
INFER = f"/v2/models/{ENDPOINT}/infer"
FEEDBACK = f"/v2/models/{ENDPOINT}/feedback"

Address = tuple[str, int]

_T = TypeVar("_T")


async def ask(
    gateway: Address, digits: Digits, numbers: Iterable[int], tally: Tally, on_answer: Callable[[], None]
) -> None:
    """Send the digits of these numbers on several connections at once, half of them as JSON and half as raw tensors."""

    async def one(connection: Connection, number: int) -> None:
        body, headers = encoded(digits.images[number], number)
        started = time.monotonic()
        response = await connection.post(INFER, body, headers)
        tally.answers.append(_answer(number, response, time.monotonic() - started))
        on_answer()

    await _share_out(gateway, numbers, one)


async def tell_truth(gateway: Address, tally: Tally, on_answer: Callable[[], None]) -> int:
    """Send the true label of everything that was answered; returns how many were accepted."""
    accepted = 0

    async def one(connection: Connection, answer: Answer) -> None:
        nonlocal accepted
        truth = {"request_id": answer.request_id, "truth": int(tally.labels[answer.number])}
        response = await connection.post(FEEDBACK, orjson.dumps(truth), {"Content-Type": "application/json"})
        accepted += response.code == 202
        on_answer()

    await _share_out(gateway, [answer for answer in tally.answers if answer.status == "ok"], one)
    return accepted


def encoded(image: Array, number: int) -> tuple[bytes, dict[str, str]]:
    """Return a request's body and headers: of both ways to write one, each is used for half of the requests."""
    return json_request(image) if number // 2 % 2 else binary_request(image)


def json_request(image: Array) -> tuple[bytes, dict[str, str]]:
    """Return a request that is all JSON: its body and its headers."""
    inputs = [{"name": INPUT, "shape": [1, image.size], "datatype": "FP32", "data": image.tolist()}]
    return orjson.dumps({"inputs": inputs}), {"Content-Type": "application/json"}


def binary_request(image: Array) -> tuple[bytes, dict[str, str]]:
    """Return a request with its tensors as raw bytes behind the JSON, which asks for such an answer too."""
    raw = image.astype("<f4").tobytes()
    tensor = {"name": INPUT, "shape": [1, image.size], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + raw, {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}


def label_of(body: bytes, json_length: str | None) -> int:
    """Return the most probable digit in an answer's body."""
    if json_length is None:
        [output] = orjson.loads(body)["outputs"]
        return int(np.argmax(output["data"]))
    head, raw = orjson.loads(body[: int(json_length)]), body[int(json_length) :]
    [output] = head["outputs"]
    if output["name"] != OUTPUT or output["parameters"]["binary_data_size"] != len(raw):
        raise ValueError(f"an answer with {len(raw)} raw bytes, whose head says {output}")
    return int(np.argmax(np.frombuffer(raw, "<f4")))


def _answer(number: int, response: Response, latency_s: float) -> Answer:
    headers = response.headers
    fine = response.code == 200
    return Answer(
        number=number, way="HTTP", request_id=headers.get("millrace-request-id", ""), latency_s=latency_s,
        status="ok" if fine else f"{response.code} {response.body[:200].decode('utf-8', 'replace')}",
        arm=headers.get("millrace-arm", ""), label=label_of(response.body, headers.get(JSON_LENGTH)) if fine else -1,
    )  # fmt: skip


async def _share_out(gateway: Address, items: Iterable[_T], one: Callable[[Connection, _T], Awaitable[None]]) -> None:
    """Give the items to a few connections; each takes the next one when it is done."""
    left: Iterator[_T] = iter(items)

    async def work() -> None:
        async with connected(*gateway) as connection:
            for item in left:
                await one(connection, item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())
    except* MillraceError as errors:
        raise errors.exceptions[0] from None
