"""Moves records that cannot be read to the dead queue, with all bytes that could be read of them."""

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
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks

logger = logging.getLogger(__name__)
LOST_HEADERS = "millrace-unreadable"  # as on RabbitMQ: why a message's properties could not be read
REASON = "unreadable"


class UndecodableRecords:
    """Buries in the background while consumers continue to read."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tasks = Tasks()

    async def close(self) -> None:
        """Stop. Records that are not buried yet are delivered again to the next owner of their partition."""
        await self._tasks.cancel()

    def take(self, queue: str, unreadable: Sequence[tuple[Delivery, OffsetTracker]]) -> None:
        """Bury these records and settle them; returns at once."""
        delivery, tracker = unreadable[0]
        logger.warning(
            "%s: %d records cannot be read and are buried; the first is in partition %d at offset %d: %s",
            queue,
            len(unreadable),
            tracker.partition.partition,
            delivery.tag,
            _reason_of(delivery),
        )
        self._tasks.spawn(self._bury(queue, unreadable), f"burying unreadable records of {queue}")

    async def _bury(self, queue: str, unreadable: Sequence[tuple[Delivery, OffsetTracker]]) -> None:
        for delivery, tracker in unreadable:
            if self._broker.channels.kind(queue) is Kind.TRANSIENT:  # it is deleted with this process
                await self._broker.ack([delivery])
                continue
            while not tracker.lost and not await self._is_buried(queue, delivery, tracker):  # noqa: ASYNC110 - Kafka sends no event
                await asyncio.sleep(TRY_AGAIN_S)

    async def _is_buried(self, queue: str, delivery: Delivery, tracker: OffsetTracker) -> bool:
        reason, partition = _reason_of(delivery), tracker.partition.partition
        body = bytes(delivery.message.body[:MESSAGE_LIMIT_BYTES])  # a whole batch may be larger than any message
        remains = replace(delivery, message=Message(queue=queue, body=body, headers={LOST_HEADERS: reason}))
        error = f"{queue}, partition {partition}, offset {delivery.tag}: {reason}"
        try:
            outcomes = await self._broker.bury(remains, reason=REASON, attempts=0, error=error)
        except TryAgain:
            return False
        return all(outcome.safe for outcome in outcomes)


def _reason_of(delivery: Delivery) -> str:
    body = delivery.message.body
    return body.reason if isinstance(body, UnreadableRecord) else ""
