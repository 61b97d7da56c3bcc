"""Queues with dead letters on any broker, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from broker.base import Broker, dead_letter_message
from broker.channels import NO_LIMITS, Limits
from broker.messages import Message
from broker.protocol.bundle import requests_in, single
from broker.protocol.header import Request, Route
from broker.protocol.ids import new_uid, now_us, uid_text
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from deploy.wiring import Installation
from tests.contract.steps import take, until

MODEL = "fraud"
SETTINGS = """\
version: 1
prefix: %s
broker: {url: "%s"}
"""


class DeadLetterQueues:
    """The queues of one model and one endpoint, with their dead queues, in a folder with settings for commands."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        path = folder / "millrace.yaml"
        path.write_text(SETTINGS % (f"d{uuid4().hex[:12]}.", url or f"sqlite:///{folder / 'broker.db'}"), "utf-8")
        self.installation = Installation.at(path)
        self.broker: Broker = self.installation.broker()
        self.channels = self.broker.channels
        self.model_queue = self.channels.inputs(MODEL, 1)
        self.dead_queue = self.channels.dead(self.model_queue)
        self.client_queue = self.channels.requests("shop")

    async def open(self, limits: Limits = NO_LIMITS) -> None:
        """Declare the endpoint `shop` with one model, and its queues."""
        await self.broker.open()
        await self.broker.declare(self.model_queue, limits)
        await self.broker.declare(self.dead_queue)
        await self.broker.declare(self.channels.declared)
        declaration = {"endpoint": "shop", "arms": {"v1": f"{MODEL}@1"}, "deadline": "7s"}
        record = endpoint_declared(read_endpoint(declaration, source="test"), "test")
        assert [one.safe for one in await self.broker.append(self.channels.declared, [record])] == [True]

    async def close(self) -> None:
        """Delete all channels."""
        dead_queues = map(self.channels.dead, (self.model_queue, self.client_queue))
        for channel in (
            self.model_queue,
            self.client_queue,
            *dead_queues,
            self.channels.declared,
            self.channels.status,
        ):
            await self.broker.delete(channel)
        await self.broker.close()

    async def bury(self, number: int, reason: str = "attempts") -> list[str]:
        """Bury a number of requests; returns their uids."""
        requests = [self._request(at) for at in range(number)]
        await self.bury_messages([single(self.model_queue, request) for request in requests], reason)
        return [uid_text(request.uid) for request in requests]

    async def bury_messages(self, messages: Sequence[Message], reason: str) -> None:
        """Bury messages as a processor does."""
        for queue in {self.channels.dead(message.queue) for message in messages}:
            await self.broker.declare(queue)
        dead = [
            dead_letter_message(one, self.channels.dead(one.queue), reason, 3, "it [/red] died \x1b[2J")
            for one in messages
        ]
        assert all(outcome.safe for outcome in await self.broker.publish(dead))

    async def drain(self, queue: str) -> list[Message]:
        """Take and ack all ready messages of a queue."""
        number = (await self.broker.depth(queue)).messages
        if not number:
            return []
        consumer = self.broker.consume(queue, number)
        deliveries = await take(consumer, number)
        await self.broker.ack(deliveries)
        await consumer.stop()
        await until(lambda: self.depth(queue), 0)  # Kafka commits acks a moment later
        return [delivery.message for delivery in deliveries]

    async def depth(self, queue: str) -> int:
        """The number of ready messages in a queue."""
        return (await self.broker.depth(queue)).messages

    async def uids(self, queue: str) -> list[str]:
        """Drain a queue and return the uids of its requests."""
        return [uid_text(one.uid) for message in await self.drain(queue) for one in requests_in(message)]

    def _request(self, number: int) -> Request:
        route = Route(endpoint="shop", arm="v1", model=MODEL, version=1)
        now = now_us()
        return Request(
            route=route,
            uid=new_uid(now),
            accepted_us=now,
            deadline_us=now,
            propensity=1.0,
            attempts=2,
            correlation=str(number),
            body=b'{"inputs":[]}',
        )
