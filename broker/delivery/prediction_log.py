"""Prediction rows: the process that ends a request writes one row for each of its instances to the event log.

Batches of one endpoint that end within `linger_s` share one event. Meanwhile their deliveries stay unacked, but their
answers are sent and their slots are free. When too many deliveries are held, the event is written at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.base import Broker
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.event_log_writer import LATE_S, EventLogWriter
from broker.errors import MillraceError
from broker.protocol.header import Request
from broker.records.endpoint import Endpoint
from broker.records.events import EndedRequests, Tensors, write_events

LINGER_S = 0.02  # of a processor
DOOR_LINGER_S = 0.1  # of a process that refuses requests before they are in a queue


@dataclass(slots=True)
class _Gathered:
    endpoint: str
    ended: list[EndedRequests] = field(default_factory=list)
    inputs: list[Tensors] = field(default_factory=list)
    outputs: list[Tensors] = field(default_factory=list)
    holds: list[PendingAck] = field(default_factory=list)


class PredictionLogWriter:
    """Gathers rows and writes them as events; settles a pending ack when its rows are safe."""

    def __init__(
        self,
        broker: Broker,
        endpoints: Mapping[str, Endpoint],
        *,
        source: str,
        linger_s: float = LINGER_S,
        pressed: Callable[[], bool] = lambda: False,
        late_s: float = LATE_S,
    ) -> None:
        """`pressed` returns True if rows must be written at once, because too many deliveries are held.

        Rows that are not safe after `late_s` are a trouble.
        """
        self._endpoints = endpoints
        self._source = source
        self._linger_s = linger_s
        self._pressed = pressed
        self._loop = asyncio.get_running_loop()
        self._gathered: dict[Hashable, _Gathered] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._random = random.Random(0)  # noqa: S311 - the choice of the sampled tensors is no secret
        self._writer = EventLogWriter(broker, late_s=late_s)

    @property
    def trouble(self) -> str:
        """The event log that accepts no rows, and for how long; empty while rows are written in time."""
        return self._writer.trouble

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
        """Add the rows of requests that ended together, and settle `holds` when the rows are safe.

        `inputs` and `outputs` have their rows in the same order. Batches with the same `signature`, the names, types
        and trailing shapes of their tensors, can share an event.
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
        """Add the rows of requests that end with an error before they were in a queue."""
        for request in requests:
            self.add(request.route.endpoint, EndedRequests.failed(request, error))

    def flush(self) -> None:
        """Write the gathered rows now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, {}
        for part in gathered.values():
            self._write(part)

    async def drain(self) -> None:
        """Wait until every row is safe."""
        self.flush()
        await self._writer.drain()

    def _gather(self, key: Hashable, endpoint: str) -> _Gathered:
        gathered = self._gathered.get(key)
        if gathered is None:
            gathered = self._gathered[key] = _Gathered(endpoint)
        return gathered

    def _sampled(self, endpoint: str) -> bool:
        declared = self._endpoints.get(endpoint)
        return declared is None or declared.log.sample >= 1.0 or self._random.random() < declared.log.sample

    def _write(self, part: _Gathered) -> None:
        events = write_events(part.ended, part.inputs, part.outputs, source=self._source)
        self._writer.write(part.endpoint, events, part.holds)
