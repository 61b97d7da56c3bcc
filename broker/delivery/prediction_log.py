"""Rows: what whoever ends a request writes about it on the endpoint's event log.

Batches of one endpoint that end within `linger_s` share one event; their inputs stay unacked meanwhile, their answers
are out and their slots are free. When too much would be held, the event leaves at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.base import Broker
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.outbox import Outbox
from broker.errors import MillraceError, TryAgain
from broker.messages import Message, Outcome, Reason
from broker.protocol.header import Request
from broker.records.endpoint import Endpoint
from broker.records.events import EndedRequests, Tensors, write_events
from broker.support.tasks import Tasks

LINGER_S = 0.02  # of a processor
DOOR_LINGER_S = 0.1  # of whoever refuses requests at the door
PATIENCE_S = 3600.0
PAUSE_S = 0.5
LATE_S = 5.0  # a row that is not safe by then is a trouble


@dataclass(slots=True)
class _Gathered:
    endpoint: str
    ended: list[EndedRequests] = field(default_factory=list)
    inputs: list[Tensors] = field(default_factory=list)
    outputs: list[Tensors] = field(default_factory=list)
    holds: list[PendingAck] = field(default_factory=list)


@dataclass(slots=True)
class _Written:
    """The holds of rows, and how many events with them are not safe yet."""

    holds: list[PendingAck]
    left: int


@dataclass(slots=True, eq=False)
class _Event:
    """One event on its way, with what waits for it."""

    message: Message
    rows: _Written
    written_s: float = field(default_factory=time.monotonic)


class PredictionLogWriter:
    """Gathers rows and writes them as events; settles a hold when its row is safe."""

    def __init__(
        self,
        broker: Broker,
        endpoints: Mapping[str, Endpoint],
        *,
        source: str,
        linger_s: float = LINGER_S,
        pressed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._broker = broker
        self._endpoints = endpoints
        self._source = source
        self._linger_s = linger_s
        self._pressed = pressed
        self._loop = asyncio.get_running_loop()
        self._gathered: dict[Hashable, _Gathered] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._declared: set[str] = set()
        self._random = random.Random(0)  # noqa: S311 - which tensors are kept is no secret
        self._outbox: Outbox[_Event] = Outbox(broker, self._settled, patience_s=PATIENCE_S, patience_full_s=PATIENCE_S)
        self._unsafe: dict[int, _Event] = {}  # in the order in which they were written
        self._refused: dict[str, str] = {}  # logs that cannot be declared now, each with the reason

    @property
    def trouble(self) -> str:
        """Return which event log takes no rows, and since when; empty while rows get there in time."""
        event = next(iter(self._unsafe.values()), None)
        waited_s = 0.0 if event is None else time.monotonic() - event.written_s
        if event is None or waited_s < LATE_S:
            return ""
        log = event.message.queue
        why = f" ({self._refused[log]})" if log in self._refused else ""
        return f"the log {log} has taken no rows for {waited_s:.0f} s{why}: their requests are held until it does"

    def add(
        self,
        endpoint: str,
        ended: EndedRequests,
        *,
        holds: Sequence[PendingAck] = (),
        signature: Hashable = None,
        inputs: Tensors | None = None,
        outputs: Tensors | None = None,
    ) -> None:
        """Add the rows of requests that ended together.

        `holds` are settled once these rows are safe. `inputs` and `outputs` hold the tensors of the rows in the same
        order; batches with the same `signature` (names, types and shapes) may share an event.
        """
        keep = inputs is not None and outputs is not None and self._sampled(endpoint)
        gathered = self._gather((endpoint, signature if keep else None), endpoint)
        gathered.ended.append(ended)
        gathered.holds.extend(holds)
        if keep and inputs is not None and outputs is not None:
            drop = self._endpoints[endpoint].log.drop if endpoint in self._endpoints else ()
            gathered.inputs.append({name: array for name, array in inputs.items() if name not in drop})
            gathered.outputs.append({name: array for name, array in outputs.items() if name not in drop})
        if self._pressed():
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger_s, self.flush)

    def refuse(self, requests: Sequence[Request], error: MillraceError) -> None:
        """Add the rows of requests that end here, before they were in a queue."""
        for request in requests:
            self.add(request.route.endpoint, EndedRequests.failed(request, error))

    def flush(self) -> None:
        """Write what is gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, {}
        for part in gathered.values():
            self._write(part)

    async def drain(self) -> None:
        """Wait until every row is safe."""
        self.flush()
        await self._tasks.drain()
        while self._unsafe:  # what found no log is written again
            await self._outbox.drain()
            await self._tasks.drain()

    def _gather(self, key: Hashable, endpoint: str) -> _Gathered:
        gathered = self._gathered.get(key)
        if gathered is None:
            gathered = self._gathered[key] = _Gathered(endpoint)
        return gathered

    def _sampled(self, endpoint: str) -> bool:
        declared = self._endpoints.get(endpoint)
        return declared is None or declared.log.sample >= 1.0 or self._random.random() < declared.log.sample

    def _write(self, part: _Gathered) -> None:
        log = self._broker.channels.events(part.endpoint)
        written = write_events(part.ended, part.inputs, part.outputs, source=self._source)
        rows = _Written(part.holds, len(written))
        events = [_Event(Message(queue=log, body=body, headers=headers), rows) for body, headers in written]
        self._unsafe.update((id(event), event) for event in events)
        if log in self._declared:
            self._put(events)
        else:
            self._tasks.spawn(self._declare_and_write(log, events), "declare-events")

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
                await asyncio.sleep(PAUSE_S)
        self._put(events)

    async def _write_again(self, event: _Event) -> None:
        """Write to a log that has vanished, once it is there again."""
        log = event.message.queue
        await asyncio.sleep(PAUSE_S)
        self._declared.discard(log)
        self._broker.upkeep.suspect([log])
        await self._declare_and_write(log, [event])

    def _settled(self, events: Sequence[_Event], outcome: Outcome) -> None:
        for event in events:
            if outcome.reason is Reason.NO_QUEUE:
                self._tasks.spawn(self._write_again(event), "write-again")
                continue
            self._unsafe.pop(id(event), None)
            if outcome.safe:  # else its inputs stay unacked, so they come back and get their row then
                _count_safe(event.rows)


def _count_safe(rows: _Written) -> None:
    """Settle what waits for rows once all their events are safe."""
    rows.left -= 1
    if not rows.left:
        for hold in rows.holds:
            hold.settle()
