"""Moves delayed messages to their queues when they are due.

Kafka has no delayed delivery. Each step of the delay ladder has a topic, and a delayed message waits in the topic of
its step. All messages of a topic wait equally long, so they are due in the order of their publication. Every process
that consumes a queue helps to move them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from broker.base import Broker, Consumer
from broker.errors import TryAgain
from broker.kafka.properties import DELAYED_UNTIL
from broker.kafka.topology import KafkaTopology
from broker.messages import Delivery, Reason
from broker.protocol.ids import now_us
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks, wait_for_event

logger = logging.getLogger(__name__)
CHECK_EVERY_S = 2.0
HELD = 1000
LONGEST_S = 60.0


class DelayMover:
    """Consumes the delay topics that exist."""

    def __init__(self, broker: Broker, topology: KafkaTopology, topics: Sequence[str]) -> None:
        self._broker = broker
        self._topology = topology
        self._topics = topics
        self._check = asyncio.Event()
        self._moving: set[str] = set()
        self._started = False
        self._tasks = Tasks()

    def start(self) -> None:
        """Start to move messages; a second call does nothing."""
        if not self._started:
            self._started = True
            self._tasks.spawn(self._watch(), "delays")

    def check_now(self) -> None:
        """Check for new delay topics now. Call this after one was made."""
        self._check.set()

    async def close(self) -> None:
        """Stop. The messages that this process holds are delivered again, to other processes."""
        await self._tasks.cancel()

    async def _watch(self) -> None:
        while len(self._moving) < len(self._topics):
            for topic in self._topics:
                if topic not in self._moving and await self._topology.exists(topic):
                    self._moving.add(topic)
                    self._tasks.spawn(self._move(topic), f"moving {topic}")
            self._check.clear()
            await wait_for_event(self._check, CHECK_EVERY_S)

    async def _move(self, topic: str) -> None:
        consumer: Consumer = self._broker.consume(topic, HELD)
        while deliveries := await consumer.take(HELD):
            for delivery in deliveries:
                due_us = delivery.message.headers[DELAYED_UNTIL]
                await asyncio.sleep(min(LONGEST_S, max(0.0, (due_us - now_us()) / 1e6)))
                await self._hand_on(delivery)

    async def _hand_on(self, delivery: Delivery) -> None:
        while not await self._try_to_hand_on(delivery):  # noqa: ASYNC110 - the broker has no event for this
            await asyncio.sleep(TRY_AGAIN_S)

    async def _try_to_hand_on(self, delivery: Delivery) -> bool:
        """Publish a due message, or bury it if its queue cannot take it; return True once it is in one of the two."""
        message = delivery.message
        try:
            (outcome,) = await self._broker.forward([delivery], [message])
            if outcome.reason not in (Reason.NO_QUEUE, Reason.TOO_LARGE):
                return outcome.safe
            error = f"refused after its delay: {outcome}"
            logger.warning("a delayed message for %s is buried: it was %s", message.queue, error)
            outcomes = await self._broker.bury(delivery, reason="undelivered", attempts=0, error=error)
        except TryAgain:
            return False
        return all(outcome.safe for outcome in outcomes)
