"""A delayed message that no queue takes is buried, however often that takes."""

from __future__ import annotations

from broker.channels import Channels
from broker.errors import Refused
from broker.kafka.delays import DelayMover
from broker.messages import FULL, NO_QUEUE, SAFE, Delivery, Message, Outcome


class ScriptedBroker:
    """Refuses to forward, and has one result for each attempt to bury."""

    def __init__(self, results: list[Outcome | Exception]) -> None:
        self.channels = Channels()
        self.results = results

    async def forward(self, deliveries: list[Delivery], messages: list[Message]) -> list[Outcome]:
        return [NO_QUEUE]

    async def bury(self, delivery: Delivery, *, reason: str, attempts: int, error: str) -> list[Outcome]:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return [result]


async def test_a_burial_that_is_refused_is_tried_again() -> None:
    broker = ScriptedBroker([Refused("no permission"), FULL, SAFE])
    mover = DelayMover(broker, None, [])  # type: ignore[arg-type]
    delivery = Delivery(Message(queue="millrace.requests.gone", body=b"x"), 1, 0, None)
    assert not await mover._try_to_hand_on(delivery)  # noqa: SLF001 - without the pauses between
    assert not await mover._try_to_hand_on(delivery)  # noqa: SLF001 - as above
    assert await mover._try_to_hand_on(delivery)  # noqa: SLF001 - as above
    assert broker.results == []
