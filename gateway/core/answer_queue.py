"""The queue on which the answers for one gateway arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from broker.base import Broker, Consumer
from broker.errors import InvalidRequest
from broker.protocol.bundle import answers_in
from broker.protocol.header import Answer
from broker.support.tasks import Tasks

TAKE = 1000
TROUBLED_S = 2.0  # a shorter interruption is no trouble


class AnswerQueue:
    """Takes answers and gives those of each message to `on_answers`."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        on_answers: Callable[[Sequence[Answer]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.unreadable = 0
        self._broker = broker
        self._on_answers = on_answers
        self._tasks = Tasks()
        self._consumer: Consumer | None = None
        self._clock = clock
        self._untroubled_s = clock()

    async def open(self) -> None:
        """Declare the queue and start to take from it."""
        await self._broker.declare(self.name)
        self._consumer = self._broker.consume(self.name, TAKE)
        self._tasks.spawn(self._take(self._consumer), "answers")

    async def close(self) -> None:
        """Stop taking."""
        if self._consumer is not None:
            await self._consumer.stop()
        await self._tasks.cancel()

    def trouble(self) -> str:
        """The reason why no answers have come for some seconds; empty if there is none. Must be called often."""
        trouble, now = self._consumer.trouble if self._consumer is not None else "", self._clock()
        if not trouble:
            self._untroubled_s = now
        return trouble if now - self._untroubled_s >= TROUBLED_S else ""

    async def _take(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(TAKE):
            for delivery in deliveries:
                try:
                    answers = answers_in(delivery.message)
                except InvalidRequest:  # only our own processes may write here, so no client waits for this message
                    self.unreadable += 1
                    continue
                self._on_answers(answers)
            await self._broker.ack(deliveries)
