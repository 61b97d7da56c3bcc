"""Writes merge records to the event logs of their endpoints."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.base import Broker
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.outbox import Outbox
from broker.errors import TryAgain
from broker.messages import Message, Outcome, Reason
from broker.records.merges import Merge, write_merge
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks

WARN_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class _Record(NamedTuple):
    message: Message
    hold: PendingAck | None
    until_s: float


class MergeLog:
    """Publishes records in the background, for at most `patience_s` each; `lost` is called for each lost record.

    The pending ack of a record is settled when the record is safe. It is never settled if the record is lost: the
    source is delivered again.
    """

    def __init__(self, broker: Broker, *, lost: Callable[[str], None], patience_s: float) -> None:
        self._broker = broker
        self._lost = lost
        self._patience_s = patience_s
        self._declared: set[str] = set()
        self._tasks = Tasks()
        self._outbox: Outbox[_Record] = Outbox(broker, self._settled, patience_s=patience_s, patience_full_s=patience_s)
        self._warned_s = -WARN_EVERY_S

    def put(self, endpoint: str, merge: Merge, hold: PendingAck | None = None) -> None:
        """Write a record."""
        body, headers = write_merge(merge)
        message = Message(queue=self._broker.channels.events(endpoint), body=body, headers=headers)
        record = _Record(message, hold, time.monotonic() + self._patience_s)
        if message.queue in self._declared:
            self._outbox.put_message(message, record)
        else:
            self._tasks.spawn(self._declare_and_put(record), "declare-events")

    async def drain(self) -> None:
        """Wait until every record is safe or lost."""
        await self._tasks.drain()
        await self._outbox.drain()
        await self._tasks.drain()
        await self._outbox.drain()

    async def _declare_again(self, record: _Record) -> None:
        """Declare the log again: it was deleted, or is being made again."""
        await asyncio.sleep(TRY_AGAIN_S)
        self._declared.discard(record.message.queue)
        await self._declare_and_put(record)

    async def _declare_and_put(self, record: _Record) -> None:
        name = record.message.queue
        while name not in self._declared:
            try:
                await self._broker.declare(name)
                self._declared.add(name)
            except TryAgain:
                await asyncio.sleep(TRY_AGAIN_S)
        self._outbox.put_message(record.message, record)

    def _settled(self, records: Sequence[_Record], outcome: Outcome) -> None:
        for record in records:
            if outcome.safe:
                if record.hold is not None:
                    record.hold.settle()
            elif outcome.reason is Reason.NO_QUEUE and time.monotonic() < record.until_s:
                self._tasks.spawn(self._declare_again(record), "declare-events")
            else:
                self._lose(record, outcome)

    def _lose(self, record: _Record, outcome: Outcome) -> None:
        self._lost(str(outcome))
        now_s = time.monotonic()
        if now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            logger.warning("%s: a merge record was not taken (%s)", record.message.queue, outcome)
