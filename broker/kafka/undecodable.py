"""Moves records that cannot be read out of everybody's way, with what could be had of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from broker.base import MESSAGE_LIMIT_BYTES, Broker
from broker.channels import Kind
from broker.errors import TryAgain
from broker.kafka.offset_tracker import OffsetTracker
from broker.kafka.records import UnreadableRecord
from broker.messages import Delivery, Message
from broker.support.tasks import Tasks

LOG = logging.getLogger(__name__)
LOST_HEADERS = "millrace-unreadable"  # as on RabbitMQ: why a message's properties could not be read
REASON = "unreadable"
RETRY_S = 0.5


class UndecodableRecords:
    """Buries while others go on to read."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tasks = Tasks()

    async def close(self) -> None:
        """Stop; what is not buried yet comes back to others."""
        await self._tasks.cancel()

    def take(self, queue: str, unreadable: Sequence[tuple[Delivery, OffsetTracker]]) -> None:
        """Bury these, and settle them."""
        delivery, claim = unreadable[0]
        LOG.warning(
            "%s: %d records cannot be read, and are buried; the first one stands in partition %d at offset %d: %s",
            queue,
            len(unreadable),
            claim.partition.partition,
            delivery.tag,
            _why(delivery),
        )
        self._tasks.spawn(self._bury(queue, unreadable), f"burying what is unreadable in {queue}")

    async def _bury(self, queue: str, unreadable: Sequence[tuple[Delivery, OffsetTracker]]) -> None:
        for delivery, claim in unreadable:
            if self._broker.channels.kind(queue) is Kind.TRANSIENT:  # it dies with us, and so does what lies in it
                await self._broker.ack([delivery])
                continue
            while not claim.lost and not await self._is_buried(queue, delivery, claim):  # noqa: ASYNC110 - Kafka says
                await asyncio.sleep(RETRY_S)

    async def _is_buried(self, queue: str, delivery: Delivery, claim: OffsetTracker) -> bool:
        why, partition = _why(delivery), claim.partition.partition
        body = bytes(delivery.message.body[:MESSAGE_LIMIT_BYTES])  # a whole batch may be larger than any message
        remains = replace(delivery, message=Message(queue=queue, body=body, headers={LOST_HEADERS: why}))
        error = f"{queue}, partition {partition}, offset {delivery.tag}: {why}"
        try:
            outcomes = await self._broker.bury(remains, reason=REASON, attempts=0, error=error)
        except TryAgain:
            return False
        return all(outcome.safe for outcome in outcomes)


def _why(delivery: Delivery) -> str:
    body = delivery.message.body
    return body.why if isinstance(body, UnreadableRecord) else ""
