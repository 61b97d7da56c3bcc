"""Sends requests to a model's queue in bundles, as a gateway does, and counts the answers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import orjson

from broker.base import Broker
from broker.delivery.outbox import Outbox
from broker.messages import Outcome
from broker.protocol.bundle import answers_in
from broker.protocol.header import BodyForm, ReplyTo, Request, Route, Status, pack_route, pack_ticket
from broker.protocol.ids import now_us
from deploy.wiring import Installation
from loadtests.harness import MAX_BATCH


def body() -> tuple[bytes, int]:
    """The body of a request with one row of 64 floats as a raw tensor, and the length of its JSON."""
    head = {
        "inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": 256}}],
        "parameters": {"binary_data_output": True},
    }
    text = orjson.dumps(head)
    return text + np.random.default_rng(0).random(64, np.float32).tobytes(), len(text)


def route_to(model: str, reply: ReplyTo, reply_to: str) -> Route:
    """The route of a model under its own name."""
    return Route(
        endpoint=model, arm="v1", model=model, version=1, policy="split", mask=1, reply=reply, reply_to=reply_to
    )


def request_on(route: Route, uid: bytes) -> Request:
    """A request with a deadline of 600 s."""
    data, json_length = body()
    now = now_us()
    return Request(
        route=route,
        uid=uid,
        accepted_us=now,
        deadline_us=now + 600_000_000,
        propensity=1.0,
        json_length=json_length,
        body=data,
    )


class BundledClient:
    """Does the work of a gateway without HTTP: publishes bundles through the outbox, and takes bundles of answers."""

    def __init__(self, broker: Broker, model: str) -> None:
        self._broker = broker
        self._queue = broker.channels.inputs(model, 1)
        self._replies = broker.channels.answers(f"bench-{model}")
        self._route = route_to(model, ReplyTo.GATEWAY, self._replies)
        self._limit = MAX_BATCH[model]
        self._moved = asyncio.Event()
        self.answered = 0
        self.bad = 0

    async def run(self, requests: int, in_flight: int) -> float:
        """Send `requests` and wait for their answers; returns the rate in requests per second."""
        await self._broker.declare(self._replies)
        consumer = self._broker.consume(self._replies, 1000)
        outbox: Outbox[None] = Outbox(self._broker, self._settled)
        taking = asyncio.create_task(self._take(consumer, requests))
        template, shared = request_on(self._route, bytes(16)), pack_route(self._route)
        ticket, data = pack_ticket(template, len(template.body))[16:], template.body
        began, sent = time.perf_counter(), 0
        while sent < requests:
            while sent - self.answered > in_flight - self._limit:
                self._moved.clear()
                await self._moved.wait()
            many = min(self._limit, requests - sent)
            uids = [number.to_bytes(16, "big") for number in range(sent, sent + many)]
            items = [(uid + ticket, data, None) for uid in uids]
            outbox.put_all(self._queue, BodyForm.BUNDLE, shared, items, limit=self._limit)
            sent += many
            await asyncio.sleep(0)
        await taking
        rate = requests / (time.perf_counter() - began)
        await consumer.stop()
        return rate

    async def _take(self, consumer: Any, requests: int) -> None:
        while self.answered < requests:
            deliveries = await consumer.take(1000)
            for delivery in deliveries:
                answers = answers_in(delivery.message)
                self.bad += sum(answer.status is not Status.OK for answer in answers)
                self.answered += len(answers)
            await self._broker.ack(deliveries)
            self._moved.set()

    def _settled(self, tokens: Any, outcome: Outcome) -> None:
        if not outcome.safe:
            self.bad += len(tokens)


async def bundled(installation: Installation, model: str, requests: int, in_flight: int) -> float:
    """Measure the rate of bundled requests; raises RuntimeError if one was not answered with `ok`."""
    async with installation.broker() as broker:
        client = BundledClient(broker, model)
        rate = await client.run(requests, in_flight)
        if client.bad:
            raise RuntimeError(f"{client.bad} of {requests} requests were not answered ok")
        return rate
