"""A queue client that publishes numbers and records every answer with its message_id."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import orjson

from broker.base import Broker, Consumer
from broker.errors import TryAgain
from broker.messages import SAFE, UNKNOWN, Delivery, Message

AT_ONCE = 250
PREFETCH = 500
PAUSE_S = 0.1
SILENCE_S = 45.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to the request for `number`; `value` is None for an error."""

    number: int
    status: str
    message_id: str
    value: float | None
    text: str


def tensor_of(number: int) -> dict[str, Any]:
    """The input tensor with one number."""
    return {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [number]}


def body_of(number: int) -> bytes:
    """The body of a request for one number."""
    return orjson.dumps({"inputs": [tensor_of(number)]})


class Client:
    """Sends requests with its own reply queue; unconfirmed requests are sent again."""

    def __init__(self, broker: Broker, endpoint: str) -> None:
        self.broker = broker
        self.queue = f"kill-answers-{uuid4().hex[:12]}"
        self.sent: set[int] = set()
        self.copies: Counter[int] = Counter()  # by number: publishes that were confirmed or have an unknown outcome
        self.answers: defaultdict[int, list[Answer]] = defaultdict(list)
        self._requests = broker.channels.requests(endpoint)
        self._name = uuid4().hex[:12]
        self._came = asyncio.Event()
        self._consumer: Consumer | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(SILENCE_S):
            while await self.broker.missing([self._requests]):  # noqa: ASYNC110 - the router declares it
                await asyncio.sleep(PAUSE_S)
        await self.broker.declare(self.queue)
        self._consumer = self.broker.consume(self.queue, PREFETCH)
        self._reading = asyncio.create_task(self._read(self._consumer), name="answers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._consumer is not None and self._reading is not None:
            await self._consumer.stop()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self.broker.delete(self.queue)

    async def send(self, numbers: Iterable[int]) -> None:
        """Publish requests until the broker has confirmed each of them."""
        left = list(numbers)
        self.sent.update(left)
        while left:
            now, left = left[:AT_ONCE], left[AT_ONCE:]
            messages = [self._request(number) for number in now]
            try:
                outcomes = await self.broker.publish(messages)
            except TryAgain:
                outcomes = []
            self.copies.update(
                number for number, outcome in zip(now, outcomes, strict=False) if outcome in (SAFE, UNKNOWN)
            )
            safe = {number for number, outcome in zip(now, outcomes, strict=False) if outcome == SAFE}
            if len(safe) < len(now):
                left = [number for number in now if number not in safe] + left
                await asyncio.sleep(PAUSE_S)

    def _request(self, number: int) -> Message:
        return Message(
            queue=self._requests,
            body=body_of(number),
            content_type="application/json",
            reply_to=self.queue,
            correlation_id=str(number),
            message_id=f"{self._name}-{number}",
        )

    async def answered(self, number: int) -> None:
        """Wait until `number` requests have an answer; raises AssertionError after SILENCE_S without one."""
        while len(self.answers) < number:
            before = sum(map(len, self.answers.values()))
            self._came.clear()
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._came.wait()
            except TimeoutError:
                silent_s = time.monotonic() - began_s
                raise AssertionError(
                    f"{before} answers to {len(self.answers)} of {len(self.sent)} requests, then silence for"
                    f" {silent_s:.0f} s; the first that wait: {sorted(self.sent - set(self.answers))[:10]}"
                ) from None

    async def all_answered(self) -> None:
        """Wait until every request that was sent has an answer."""
        await self.answered(len(self.sent))

    @property
    def lost(self) -> int:
        """The number of requests without an answer."""
        return len(self.sent - set(self.answers))

    @property
    def twice(self) -> int:
        """The number of requests whose answers differ in their message_id, so that a client cannot deduplicate them.

        On a broker that identifies messages by their position each copy is a request with an id: a client that repeats
        an unconfirmed request, although it arrived, gets an answer for each copy.
        """
        by_place = type(self.broker).origin is not Broker.origin
        return sum(
            len({answer.message_id for answer in answers}) > (max(1, self.copies[number]) if by_place else 1)
            for number, answers in self.answers.items()
        )

    @property
    def repeated(self) -> int:
        """The number of answers with the message_id of an earlier answer."""
        return sum(len(answers) - len({answer.message_id for answer in answers}) for answers in self.answers.values())

    @property
    def statuses(self) -> Counter[str]:
        """The number of requests by the status of their first answer."""
        return Counter(answers[0].status for answers in self.answers.values())

    def message_id(self, number: int) -> str:
        """The uid in the answer to a request."""
        return self.answers[number][0].message_id

    def message_ids(self) -> list[str]:
        """The uids of all answered requests."""
        return [self.message_id(number) for number in sorted(self.answers)]

    def wrong(self) -> list[Answer]:
        """The answers with a wrong value, or with another status than the request's first answer."""
        return [
            one
            for answers in self.answers.values()
            for one in answers
            if one.status != answers[0].status or (one.status == "ok" and one.value != one.number)
        ]

    async def _read(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(PREFETCH):
            self._note(deliveries)
            await self.broker.ack(deliveries)
            self._came.set()

    def _note(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            message = delivery.message
            number, status = int(message.correlation_id or -1), str(message.headers.get("status"))
            body = orjson.loads(message.body)
            value = float(body["outputs"][0]["data"][0]) if status == "ok" else None
            text = str(body.get("error", ""))
            self.answers[number].append(Answer(number, status, message.message_id or "", value, text))
