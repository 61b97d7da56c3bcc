"""Writes events to the event logs of endpoints until they are safe, and acks the deliveries that wait for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.base import Broker
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.outbox import Outbox
from broker.errors import TryAgain
from broker.messages import Message, Outcome, Reason
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks

PATIENCE_S = 3600.0
LATE_S = 5.0  # an event that is not safe by then is a trouble


@dataclass(slots=True)
class _Rows:
    """Rows that were written together: their pending acks, and the number of their events that are not safe yet."""

    holds: Sequence[PendingAck]
    events_left: int


@dataclass(slots=True, eq=False)
class _Event:
    """One event in flight."""

    message: Message
    rows: _Rows
    written_s: float = field(default_factory=time.monotonic)


class EventLogWriter:
    """Declares an event log before the first write, and again if it was deleted."""

    def __init__(self, broker: Broker, *, late_s: float = LATE_S) -> None:
        self._broker = broker
        self._late_s = late_s
        self._tasks = Tasks()
        self._declared: set[str] = set()
        self._outbox: Outbox[_Event] = Outbox(
            broker, self._on_settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S
        )
        self._unsafe: dict[int, _Event] = {}  # in the order in which they were written
        self._refused: dict[str, str] = {}  # logs that cannot be declared now, each with the error

    @property
    def trouble(self) -> str:
        """The event log that accepts no events, and for how long; empty while events are written in time."""
        event = next(iter(self._unsafe.values()), None)
        waited_s = 0.0 if event is None else time.monotonic() - event.written_s
        if event is None or waited_s < self._late_s:
            return ""
        log = event.message.queue
        reason = f" ({self._refused[log]})" if log in self._refused else ""
        return f"the log {log} has taken no rows for {waited_s:.0f} s{reason}: their requests are held until it does"

    def write(self, endpoint: str, bodies: Sequence[tuple[bytes, dict[str, Any]]], holds: Sequence[PendingAck]) -> None:
        """Write events, given as (body, headers), and settle `holds` when all of them are safe."""
        log = self._broker.channels.events(endpoint)
        rows = _Rows(holds, len(bodies))
        events = [_Event(Message(queue=log, body=body, headers=headers), rows) for body, headers in bodies]
        self._unsafe.update((id(event), event) for event in events)
        if log in self._declared:
            self._put(events)
        else:
            self._tasks.spawn(self._declare_and_write(log, events), "declare-events")

    async def drain(self) -> None:
        """Wait until every event is safe."""
        await self._tasks.drain()
        while self._unsafe:  # an event whose log was deleted is written again
            await self._outbox.drain()
            await self._tasks.drain()

    def _put(self, events: Sequence[_Event]) -> None:
        for event in events:
            self._outbox.put_message(event.message, event)

    async def _declare_and_write(self, log: str, events: Sequence[_Event]) -> None:
        while log not in self._declared:
            try:
                await self._broker.declare(log)
                self._declared.add(log)
                self._refused.pop(log, None)
            except TryAgain as exc:
                self._refused[log] = str(exc)
                await asyncio.sleep(TRY_AGAIN_S)
        self._put(events)

    async def _write_again(self, event: _Event) -> None:
        """Write to a log that was deleted, once it exists again."""
        log = event.message.queue
        await asyncio.sleep(TRY_AGAIN_S)
        self._declared.discard(log)
        self._broker.upkeep.suspect([log])
        await self._declare_and_write(log, [event])

    def _on_settled(self, events: Sequence[_Event], outcome: Outcome) -> None:
        for event in events:
            if outcome.reason is Reason.NO_QUEUE:
                self._tasks.spawn(self._write_again(event), "write-again")
                continue
            self._unsafe.pop(id(event), None)
            if outcome.safe:  # otherwise the requests stay unacked, come back, and get their rows then
                _count_safe(event.rows)


def _count_safe(rows: _Rows) -> None:
    rows.events_left -= 1
    if not rows.events_left:
        for hold in rows.holds:
            hold.settle()
