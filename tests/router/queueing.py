"""The router service of one endpoint `shop` with two arms, for a client of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from prometheus_client import CollectorRegistry

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.messages import FULL, NO_HEADERS, Delivery, Message, Outcome, Record
from broker.protocol.ids import now_us
from broker.records.declared import endpoint_declared
from broker.records.endpoint import read_endpoint
from broker.records.status import Announcement, write_announcement
from broker.sqlite.adapter import SqliteBroker
from router.service.endpoint import DEFAULT_LIMITS, EndpointLimits, EndpointService
from router.service.metrics import RouterMetrics
from router.service.ranked_requests import RankerAnswers
from router.state.view import View
from tests.arms import PATIENCE_S, X
from tests.servers import kafka_url, rabbitmq_url

CHANNELS = Channels()
SHADOWED = {"shadow": "v2", "serve": "v1"}
INTERLEAVED = {
    "interleave": ["v1", "v2"],
    "credit": "clicked",
    "method": "team_draft",
    "length": 4,
    "output": "items",
    "wait": "5s",
}
CLICKED = {"rewards": {"clicked": {"default": 0}}}
BODY = orjson.dumps({"id": "mine", "inputs": [X]})


class Noting(SqliteBroker):
    """Notes the kind of each confirmed message, and each ack of a client's message, in order.

    Refuses the first messages of the kind that `reluctant` names.
    """

    reluctant = ""
    refusals = 5

    def noted(self) -> list[str]:
        """Return the confirmations so far."""
        found: list[str] = self.__dict__.setdefault("_noted", [])
        return found

    async def forward(self, deliveries: Sequence[Delivery], messages: Sequence[Message]) -> list[Outcome]:
        if self.reluctant in [_kind(message) for message in messages] and self.refusals > 0:
            self.refusals -= 1
            return [FULL] * len(messages)
        outcomes = await super().forward(deliveries, messages)
        self.noted().extend(
            [_kind(message) for message, outcome in zip(messages, outcomes, strict=True) if outcome.safe]
        )
        self._note_acked(deliveries)
        return outcomes

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await super().ack(deliveries)
        self._note_acked(deliveries)

    def _note_acked(self, deliveries: Sequence[Delivery]) -> None:
        self.noted().extend(["acked"] * sum(one.message.queue == CHANNELS.requests("shop") for one in deliveries))


def _kind(message: Message) -> str:
    kind = str(message.headers.get("cloudEvents_type", ""))
    if kind:
        return kind.split(".")[1]
    return message.queue.removeprefix(CHANNELS.prefix)


@dataclass
class Client:
    """A client of the queue, and the service that it talks to."""

    broker: Broker
    view: View
    service: EndpointService
    running: asyncio.Task[None]
    taken: list[Message] = field(default_factory=list)
    mine: str = field(default_factory=lambda: f"client.{uuid4().hex[:8]}")

    async def send(self, *correlations: str, **more: Any) -> None:
        """Send requests, together."""
        requests = self.broker.channels.requests("shop")
        given = {"body": BODY, "reply_to": self.mine, **more}
        sent = await self.broker.publish([Message(queue=requests, correlation_id=one, **given) for one in correlations])
        assert all(outcome.safe for outcome in sent)

    async def answers(self, number: int, queue: str = "") -> list[Message]:
        """Return so many answers by correlation id, once they are there."""
        consumer = self.broker.consume(queue or self.mine, 100)
        found: list[Message] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < number:
                deliveries = await consumer.take(number)
                found += [delivery.message for delivery in deliveries]
                await self.broker.ack(deliveries)
        await consumer.stop()
        return sorted(found, key=lambda message: str(message.correlation_id))

    async def left(self) -> int:
        """Return how many answers still wait for the client."""
        return (await self.broker.depth(self.mine)).messages


@asynccontextmanager
async def routing(
    broker: Broker, policy: dict[str, Any], *, limits: EndpointLimits = DEFAULT_LIMITS, **declaration: Any
) -> AsyncIterator[Client]:
    """Run the service; both arms are announcement to be ready, whether they are or not."""
    view = View(b"secret", lambda: 0.0)
    arms = {"v1": "m@1", "v2": "m@2"}
    declaration = {"endpoint": "shop", "arms": arms, "policy": policy, "feedback": CLICKED, **declaration}
    view.fold_declared(Record(0, endpoint_declared(read_endpoint(declaration, source="test"), "test"), NO_HEADERS))
    for version in (1, 2):
        announcement = Announcement(
            instance=f"r{version}",
            part="replica",
            state="ready",
            at_us=now_us(),
            model="m",
            version=version,
            full={"max_batch_size": 8},
        )
        view.fold_status(Record(0, write_announcement(announcement), NO_HEADERS))
    channels = broker.channels
    answers = RankerAnswers(broker, f"router-{uuid4().hex[:8]}")
    for channel in (channels.requests("shop"), channels.results("shop"), channels.events("shop")):
        await broker.declare(channel)
    metrics = RouterMetrics(CollectorRegistry())
    service = EndpointService(broker, view, "shop", "router-test", metrics, answers, limits=limits)
    running = asyncio.create_task(service.run())
    client = Client(broker, view, service, running)
    await broker.declare(client.mine)
    try:
        yield client
    finally:
        await service.stop()
        await asyncio.wait([running])
        await answers.close()
        await broker.delete(client.mine)


@asynccontextmanager
async def any_broker(kind: str, folder: Path) -> AsyncIterator[Broker]:
    """Open the embedded broker, or a real one with channels of its own that are gone afterwards."""
    if kind == "embedded":
        async with SqliteBroker(folder / "broker.db", CHANNELS) as broker:
            yield broker
        return
    channels = Channels(f"t{uuid4().hex[:12]}.")
    async with connect(rabbitmq_url() if kind == "rabbitmq" else kafka_url(), channels) as broker:
        await broker.declare(channels.status)
        try:
            yield broker
        finally:
            inputs = [channels.inputs("m", version) for version in (1, 2)]
            for channel in (
                *inputs,
                *[channels.retry(queue) for queue in inputs],
                channels.requests("shop"),
                channels.results("shop"),
                channels.events("shop"),
                channels.status,
            ):
                await broker.delete(channel)
