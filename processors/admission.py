"""The first decision about a delivery: compute its requests, end them with an error, retry them alone, or bury it."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence

from broker.delivery.ack_tracker import AckTracker, PendingAck
from broker.errors import Cancelled, Failed, InvalidRequest, MillraceError
from broker.messages import Delivery
from broker.protocol.bundle import requests_in
from broker.protocol.header import Request
from broker.protocol.ids import is_over, now_us
from broker.records.endpoint import Endpoint
from broker.support.tasks import Tasks
from processors.batcher import BatchItem
from processors.model import LoadedModel
from processors.outcomes import CONFIRMATIONS_PER_REQUEST, OutcomeWriter, too_late
from processors.transfer import DeliveryTransfer

DEFAULT_ATTEMPTS = 3
ATTEMPTS_LIMIT = 0xFFFF  # the largest number that a ticket and a row can hold


class Admission:
    """Decodes requests of one model's queue for the batcher.

    A request that is too late, cancelled or invalid ends here with its answer and row. A delivery that cannot be read
    is buried. A redelivered message goes to the retry queue, because one of its requests may have killed a processor.
    """

    def __init__(
        self,
        model: LoadedModel,
        endpoints: Mapping[str, Endpoint],
        *,
        cancels: Container[bytes],
        acks: AckTracker,
        outcomes: OutcomeWriter,
        transfer: DeliveryTransfer,
        dead_queue: str,
    ) -> None:
        self._model = model
        self._endpoints = endpoints
        self._cancels = cancels
        self._acks = acks
        self._outcomes = outcomes
        self._transfer = transfer
        self._dead_queue = dead_queue
        self._tasks = Tasks()

    def admit(self, deliveries: Sequence[Delivery]) -> list[BatchItem]:
        """Return the requests to compute out of deliveries from the model's queue."""
        taken_us = now_us()
        items: list[BatchItem] = []
        redelivered = []
        for delivery in deliveries:
            if delivery.came_back:
                redelivered.append(delivery)
            elif requests := self._read(delivery):
                ack = self._acks.hold(delivery, CONFIRMATIONS_PER_REQUEST * len(requests))
                for request in requests:
                    self._decode(request, ack, taken_us, items)
        if redelivered:
            self._transfer.start_retry(redelivered)
        return items

    def admit_alone(self, deliveries: Sequence[Delivery]) -> list[BatchItem]:
        """Return the requests to compute out of deliveries from the retry queue; each delivery holds one request.

        A redelivery counts as an attempt here, because the request had the processor to itself. A request is buried
        after the attempts that its endpoint allows.
        """
        items: list[BatchItem] = []
        for delivery in deliveries:
            for request in self._read(delivery)[:1]:
                attempts = min(request.attempts + delivery.came_back, ATTEMPTS_LIMIT)
                counted = request._replace(attempts=attempts)
                if attempts >= self._attempts_allowed(request):
                    self._tasks.spawn(self._give_up(delivery, counted), "give-up")
                else:
                    self._decode(counted, self._acks.hold(delivery, CONFIRMATIONS_PER_REQUEST), now_us(), items)
        return items

    async def drain(self) -> None:
        """Wait until every burial and every move to the retry queue has ended."""
        await self._tasks.drain()
        await self._transfer.drain()

    def _read(self, delivery: Delivery) -> Sequence[Request]:
        """Return the requests in a delivery; bury it and return none if it cannot be read."""
        try:
            return requests_in(delivery.message)
        except InvalidRequest as exc:
            self._transfer.start_burial(delivery, exc)
            return ()

    def _decode(self, request: Request, ack: PendingAck, taken_us: int, items: list[BatchItem]) -> None:
        """Append the decoded request to `items`, or end it with its error."""
        try:
            if is_over(request.deadline_us, taken_us):
                raise too_late(request)
            if request.uid in self._cancels:
                raise Cancelled("the client cancelled it before it was computed")
            inputs, rows, signature = self._model.decode(request)
        except MillraceError as exc:
            self._outcomes.fail(request, ack, exc, taken_us=taken_us)
            return
        items.append(
            BatchItem(
                request=request,
                signature=signature,
                inputs=inputs,
                rows=rows,
                ack=ack,
                taken_us=taken_us,
                arrived_s=time.monotonic(),
            )
        )

    def _attempts_allowed(self, request: Request) -> int:
        declared = self._endpoints.get(request.route.endpoint)
        return declared.retry.attempts if declared else DEFAULT_ATTEMPTS

    async def _give_up(self, delivery: Delivery, request: Request) -> None:
        """Answer `failed`, write the row, and bury the delivery after both are confirmed."""
        error = Failed(
            f"model {self._model.config.name} version {self._model.version}: the processor died {request.attempts}"
            f" times with this request in hand; it is buried in {self._dead_queue}"
        )
        # One confirmation more than will come: the burial settles this delivery, never an ack.
        ack = self._acks.hold(delivery, CONFIRMATIONS_PER_REQUEST + 1)
        self._outcomes.fail(request, ack, error, taken_us=now_us())
        await self._outcomes.drain()
        await self._transfer.bury(delivery, reason="attempts", attempts=request.attempts, error=error)
        self._acks.abandon()
