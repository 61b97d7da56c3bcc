"""The two outcomes of a request: its answer, and its rows on the event log of its endpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from broker.base import Broker
from broker.delivery.ack_tracker import PendingAck
from broker.delivery.prediction_log import PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import Expired, MillraceError
from broker.protocol.answers import error_body
from broker.protocol.header import BY_WORD, Request, Status
from broker.protocol.ids import now_us
from broker.records.endpoint import Endpoint
from broker.records.events import EndedRequests
from processors.batcher import BatchItem
from processors.metrics import ProcessorMetrics
from processors.model import ComputedBatch, FailedItem, LoadedModel

CONFIRMATIONS_PER_REQUEST = 2  # a delivery is acked after an answer and a row for each of its requests


class OutcomeWriter:
    """Sends answers and writes rows; each confirmed one settles one confirmation of its request's `PendingAck`."""

    def __init__(
        self,
        broker: Broker,
        model: LoadedModel,
        endpoints: Mapping[str, Endpoint],
        metrics: ProcessorMetrics,
        *,
        source: str,
        is_pressed: Callable[[], bool],
    ) -> None:
        """`source` names the writer of events; rows leave at once while `is_pressed()` is true."""
        self._model = model
        self._metrics = metrics
        self._replies = ReplySender(broker, dropped=metrics.dropped)
        self._rows = PredictionLogWriter(broker, endpoints, source=source, pressed=is_pressed)

    @property
    def trouble(self) -> str:
        """Why computed requests are still held here; empty if rows are confirmed in time."""
        return self._rows.trouble

    def answer(self, batch: ComputedBatch) -> list[BatchItem]:
        """Send the answers of a computed batch and return the items that got a result.

        An item whose outputs cannot be encoded ends with an error: it gets its answer and its row here.
        """
        computing_us = _field_us(batch.started_us, batch.computed_us)
        items, results, queued_us = [], [], 0
        for item, body in zip(batch.items, self._model.encode(batch), strict=True):
            if isinstance(body, MillraceError):
                failed = FailedItem(item=item, error=body, started_us=batch.started_us, computed_us=batch.computed_us)
                self.fail_item(failed, batch_rows=batch.rows)
                continue
            waits_us = _field_us(item.request.accepted_us, item.taken_us), max(0, batch.started_us - item.taken_us)
            queued_us += sum(waits_us)
            items.append(item)
            results.append((item.request, body, item.ack, (*waits_us, computing_us)))
        self._replies.answer(results, Status.OK)
        took_us = batch.computed_us - batch.started_us
        self._metrics.computed(len(items), batch.rows, took_us, queued_us=queued_us, at_us=batch.computed_us)
        return items

    def record(self, batch: ComputedBatch, answered: Sequence[BatchItem]) -> None:
        """Write the rows of a batch's items that got a result, with tensors, to the logs of their endpoints."""
        by_endpoint: defaultdict[str, list[BatchItem]] = defaultdict(list)
        for item in answered:
            by_endpoint[item.request.route.endpoint].append(item)
        for endpoint, items in by_endpoint.items():
            self._record(endpoint, items, batch)

    def fail_item(self, failed: FailedItem, *, batch_rows: int = 1) -> None:
        """End a request whose computation failed: an answer with the error, and a row without tensors."""
        item = failed.item
        self.fail(
            item.request,
            item.ack,
            failed.error,
            rows=item.rows,
            taken_us=item.taken_us,
            started_us=failed.started_us,
            computed_us=failed.computed_us,
            batch=batch_rows,
        )

    def expire(self, item: BatchItem) -> None:
        """End a request whose deadline passed before its batch started."""
        self.fail(item.request, item.ack, too_late(item.request), rows=item.rows, taken_us=item.taken_us)

    def fail(
        self,
        request: Request,
        ack: PendingAck,
        error: MillraceError,
        *,
        taken_us: int,
        rows: int = 1,
        started_us: int = 0,
        computed_us: int = 0,
        batch: int = 0,
    ) -> None:
        """End a request with an error: its typed answer, and its row. Zeros stand for steps that were not reached."""
        status = BY_WORD[error.status]
        queued_us = _field_us(request.accepted_us, taken_us)
        self._replies.answer_one(request, status, error_body(str(error)), ack, queued_us)
        ended = EndedRequests.failed(
            request,
            error,
            rows=rows,
            taken_us=taken_us,
            started_us=started_us,
            computed_us=computed_us,
            batch=batch,
        )
        self._rows.add(request.route.endpoint, ended, holds=[ack])
        self._metrics.failed(status.word, _field_us(taken_us, computed_us))

    async def drain(self) -> None:
        """Wait until every answer and every row is confirmed."""
        await self._replies.outbox.drain()
        await self._rows.drain()

    def _record(self, endpoint: str, items: Sequence[BatchItem], batch: ComputedBatch) -> None:
        ended = EndedRequests(
            requests=[item.request for item in items],
            rows=[item.rows for item in items],
            taken_us=[item.taken_us for item in items],
            status=Status.OK,
            started_us=batch.started_us,
            computed_us=batch.computed_us,
            published_us=now_us(),
            batch=batch.rows,
        )
        acks = [item.ack for item in items]
        if not self._model.batches:  # without a batch dimension the tensors cannot be cut into rows
            self._rows.add(endpoint, ended, holds=acks)
            return
        inputs, outputs = batch.rows_of(items)
        tensors = (*inputs.items(), *outputs.items())
        signature = tuple([(name, array.dtype.str, array.shape[1:]) for name, array in tensors])
        self._rows.add(endpoint, ended, holds=acks, signature=signature, inputs=inputs, outputs=outputs)


def too_late(request: Request) -> Expired:
    """Return the error of a request whose deadline passed before it was computed."""
    allowed_ms = (request.deadline_us - request.accepted_us) / 1000
    return Expired(f"the {allowed_ms:.0f} ms allowed were over before it was computed: allow more time or send less")


def _field_us(start_us: int, end_us: int) -> int:
    """Return a duration that fits a 32-bit field; it is 0 where the clocks of two machines disagree."""
    return min(max(0, end_us - start_us), 0xFFFFFFFF)
