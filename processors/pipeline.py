"""Take, decode, infer, publish, ack: the life of a request inside a processor.

A slot before a message: nothing is taken that could not be computed soon. While one batch is computed in the
worker, the next is collected and the last one is being published. A delivery is acked when every request in it has
its answer and its row confirmed.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Container, Mapping, Sequence
from dataclasses import dataclass

from broker.base import Broker, Consumer
from broker.delivery.ack_tracker import AckTracker, PendingAck
from broker.delivery.prediction_log import PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import Cancelled, Expired, Failed, InvalidRequest, MillraceError, TryAgain
from broker.messages import Delivery, Outcome
from broker.protocol.answers import error_body
from broker.protocol.bundle import requests_in, single
from broker.protocol.header import BY_WORD, Request, Status
from broker.protocol.ids import is_over, now_us
from broker.records.endpoint import Endpoint
from broker.records.events import EndedRequests
from broker.support.tasks import Tasks
from processors.batcher import Batcher, BatchItem
from processors.metrics import ProcessorMetrics
from processors.model import ComputedBatch, FailedItem, LoadedModel
from processors.retry_queue import RetryQueue
from processors.worker import Worker

BATCHES_HELD = 8  # four that wait or run, four whose answers and rows are on their way
DEFAULT_ATTEMPTS = 3
ATTEMPTS_LIMIT = 0xFFFF  # what a ticket and a row have room for
GIVE_BACK_PAUSE_S = 0.5
WORKER_DEPTH = 2
FILL_WEIGHT = 0.1
SHRINK_AT = 8
PER_REQUEST = 2  # what a delivery waits for: an answer and a row


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How a pipeline runs."""

    instance: str
    grace_s: float = 20.0


class Pipeline:
    """One model's queue, from take to ack."""

    def __init__(
        self,
        broker: Broker,
        model: LoadedModel,
        endpoints: Mapping[str, Endpoint],
        settings: PipelineSettings,
        metrics: ProcessorMetrics,
        cancels: Container[bytes] = frozenset(),
    ) -> None:
        self.model = model
        self.queue = broker.channels.inputs(model.config.name, model.version)
        self.settling = AckTracker(broker)
        self._broker = broker
        self._endpoints = endpoints
        self._metrics = metrics
        self._cancels = cancels
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(self._bisect, self._computed, name=f"infer-{model.config.name}")
        self._answering = ReplySender(broker, dropped=metrics.dropped)
        self._lane = RetryQueue(broker, self.queue, endpoints, went=self._leave, stayed=self._end_broken)
        self._held_limit = BATCHES_HELD * model.max_rows
        self._rows = PredictionLogWriter(
            broker, endpoints, source=f"/millrace/{settings.instance}", pressed=self._is_pressed
        )
        delay_s = model.config.max_queue_delay_us / 1e6
        self._batcher = Batcher(max_rows=model.max_rows, delay_s=delay_s)
        self._computing = 0
        self._moved = asyncio.Event()
        # Until a message was seen, each may be a whole batch: to hold too little costs a moment, too much a long lane.
        self._fill = float(model.max_rows)
        self._asked = 0
        self._running = 0
        self._side = Tasks()

    @property
    def in_flight(self) -> int:
        """How many requests wait or are computed here."""
        return self._batcher.waiting_requests + self._computing

    @property
    def trouble(self) -> str:
        """Return what keeps requests here that are computed; empty if nothing does."""
        return self._rows.trouble

    @property
    def prefetch(self) -> int:
        """How many broker messages may be held: four batches, by the observed fill."""
        return max(BATCHES_HELD, round(self._held_limit / self._fill))

    async def run(self, consumer: Consumer) -> None:
        """Serve from `consumer`, made with our `prefetch`, until it is stopped and everything held is settled."""
        self._asked = self.prefetch
        while deliveries := await consumer.take(self.prefetch):
            self._open_all(deliveries, consumer)
            while not self._batcher.has_room:
                await self._movement()
        await self.drain()

    async def run_alone(self, delivery: Delivery) -> None:
        """Serve one request of the retry lane with nothing else in hand; bury it after too many attempts."""
        request = self._only_request(delivery)
        if request is None:
            return
        attempts = min(request.attempts + delivery.came_back, ATTEMPTS_LIMIT)
        if attempts >= self._attempts_allowed(request):
            await self._give_up(delivery, request, attempts)
            return
        self._admit(request._replace(attempts=attempts), self.settling.hold(delivery, PER_REQUEST), now_us())
        self._pump()
        await self.drain()

    async def drain(self) -> None:
        """Wait until all that was taken is computed, answered, recorded and acked."""
        while self.in_flight:
            await self._movement()
        await self._side.drain()
        await self._lane.drain()
        await self._answering.outbox.drain()
        await self._rows.drain()
        await self.settling.drain()

    def close(self) -> None:
        """Let the worker go."""
        self._worker.close()

    # -- in: from deliveries to items

    def _open_all(self, deliveries: Sequence[Delivery], consumer: Consumer) -> None:
        taken_us = now_us()
        back = [delivery for delivery in deliveries if delivery.came_back]
        for delivery in deliveries:
            if not delivery.came_back:
                self._open(delivery, taken_us)
        if back:
            self._metrics.came_back.inc(len(back))
            self._side.spawn(self._send_to_lane(back), "to-lane")
        self._pump()
        self._observe_fill(deliveries, consumer)

    def _open(self, delivery: Delivery, taken_us: int) -> None:
        try:
            requests = requests_in(delivery.message)
        except InvalidRequest as exc:
            self._side.spawn(self._bury(delivery, "unreadable", 0, exc), "bury")
            return
        hold = self.settling.hold(delivery, PER_REQUEST * len(requests))
        for request in requests:
            self._admit(request, hold, taken_us)

    def _admit(self, request: Request, hold: PendingAck, taken_us: int) -> None:
        if is_over(request.deadline_us, taken_us):
            self._end(request, hold, _too_late(request), taken_us)
            return
        if request.uid in self._cancels:
            self._end(request, hold, Cancelled("the client cancelled it before it was computed"), taken_us)
            return
        try:
            inputs, rows, signature = self.model.decode(request)
        except MillraceError as exc:
            self._end(request, hold, exc, taken_us)
            return
        self._batcher.put(signature, BatchItem(request, inputs, rows, hold, taken_us, time.monotonic()))

    def _observe_fill(self, deliveries: Sequence[Delivery], consumer: Consumer) -> None:
        """Follow the mean fill: up at once, because more than was meant is held already; down slowly.

        Less is asked for only when far too much is held: it makes what is on its way come back (see the adapters).
        """
        mean = sum(max(1, delivery.message.count) for delivery in deliveries) / len(deliveries)
        self._fill = max(mean, self._fill + FILL_WEIGHT * (mean - self._fill))
        if not self._asked / SHRINK_AT < self.prefetch < self._asked * 2:
            self._asked = self.prefetch
            consumer.resize(self._asked)

    # -- the lane of what came back

    async def _send_to_lane(self, deliveries: Sequence[Delivery]) -> None:
        """Move each request of a delivery that came back, by itself, to the lane: a delivery is not an attempt."""
        lane = self._broker.channels.retry(self.queue)
        for delivery in deliveries:
            try:
                requests = requests_in(delivery.message)
            except InvalidRequest as exc:
                await self._bury(delivery, "unreadable", delivery.came_back, exc)
                continue
            await self._or_give_back(
                delivery, self._broker.forward([delivery], [single(lane, one) for one in requests])
            )

    async def _or_give_back(self, delivery: Delivery, moving: Awaitable[Sequence[Outcome]]) -> None:
        """Wait for a delivery's move; if it failed, give the delivery back, so that it is tried again."""
        try:
            if all(outcome.safe for outcome in await moving):
                return
        except TryAgain:
            pass
        await asyncio.sleep(GIVE_BACK_PAUSE_S)
        await self._broker.requeue([delivery])

    def _only_request(self, delivery: Delivery) -> Request | None:
        try:
            return requests_in(delivery.message)[0]
        except InvalidRequest as exc:
            self._side.spawn(self._bury(delivery, "unreadable", delivery.came_back, exc), "bury")
            return None

    async def _give_up(self, delivery: Delivery, request: Request, attempts: int) -> None:
        """Bury a request that ended its processor too often; its client hears `failed`, its row says so."""
        error = Failed(
            f"model {self.model.config.name} version {self.model.version}: the processor died {attempts} times with"
            f" this request in hand; it is buried in {self._broker.channels.dead(self.queue)}"
        )
        hold = self.settling.hold(delivery, PER_REQUEST + 1)  # never acked through the hold: the burial acks it
        self._end(request._replace(attempts=attempts), hold, error, now_us())
        await self._answering.outbox.drain()
        await self._rows.drain()
        await self._bury(delivery, "attempts", attempts, error)
        self.settling.held -= 1

    async def _bury(self, delivery: Delivery, reason: str, attempts: int, error: MillraceError) -> None:
        self._metrics.buried.labels(reason).inc()
        burial = self._broker.bury(delivery, reason=reason, attempts=attempts, error=str(error))
        await self._or_give_back(delivery, burial)

    def _attempts_allowed(self, request: Request) -> int:
        declared = self._endpoints.get(request.route.endpoint)
        return declared.retry.attempts if declared else DEFAULT_ATTEMPTS

    # -- compute

    def _pump(self) -> None:
        """Keep the worker busy: one batch runs, a full one may wait behind it: no time is lost between."""
        while self._running < WORKER_DEPTH:
            batch = self._batcher.pop(full=self._running > 0)
            if not batch:
                break
            wanted = self._still_wanted(batch)
            if wanted:
                self._running += 1
                self._computing += len(wanted)
                self._worker.put(wanted)
        self._moved.set()
        if not self._running and (pause_s := self._batcher.due_in_s()) is not None:
            self._loop.call_later(pause_s, self._pump)  # 0 if one has become due since: it was not when we looked

    def _computed(self, batch: Sequence[BatchItem], parts: Sequence[ComputedBatch | FailedItem]) -> None:
        """Start the next batch, then finish this one while it runs."""
        self._running -= 1
        self._pump()
        self._finish(parts)
        self._computing -= len(batch)
        self._moved.set()

    async def _movement(self) -> None:
        """Wait until a batch was started or finished."""
        self._moved.clear()
        await self._moved.wait()

    def _still_wanted(self, batch: Sequence[BatchItem]) -> Sequence[BatchItem]:
        now = now_us()
        late = [item for item in batch if is_over(item.request.deadline_us, now)]
        for item in late:
            self._end(item.request, item.hold, _too_late(item.request), item.taken_us, item.rows)
        return [item for item in batch if item not in late] if late else batch

    def _bisect(self, batch: Sequence[BatchItem]) -> list[ComputedBatch | FailedItem]:
        """Compute a batch; if it fails, its halves, so that only the guilty request fails. Runs in the worker."""
        started_us = now_us()
        try:
            inputs, outputs = self.model.infer(batch)
        except MillraceError as exc:
            if len(batch) == 1:
                return [FailedItem(batch[0], exc, started_us, now_us())]
            half = len(batch) // 2
            return self._bisect(batch[:half]) + self._bisect(batch[half:])
        return [ComputedBatch(batch, inputs, outputs, started_us, now_us())]

    # -- out: answers and rows

    def _finish(self, parts: Sequence[ComputedBatch | FailedItem]) -> None:
        for part in parts:
            if isinstance(part, ComputedBatch):
                self._finish_computed(part)
            else:
                self._finish_broken(part)

    def _finish_computed(self, part: ComputedBatch) -> None:
        size = sum([item.rows for item in part.items])
        encoded = self.model.encode(part)
        computing_us = _between(part.started_us, part.computed_us)
        items, results = [], []
        for item, body in zip(part.items, encoded, strict=True):
            if isinstance(body, MillraceError):
                self._end(
                    item.request, item.hold, body, item.taken_us, item.rows, part.started_us, part.computed_us, size
                )
            else:
                items.append(item)
                times = (
                    _between(item.request.accepted_us, item.taken_us),
                    max(0, part.started_us - item.taken_us),
                    computing_us,
                )
                results.append((item.request, body, item.hold, times))
        self._answering.answer(results, Status.OK)
        queued_us = sum([queued + waited for *_, (queued, waited, _) in results])
        took_us = part.computed_us - part.started_us
        self._metrics.computed(len(items), size, took_us, queued_us=queued_us, at_us=part.computed_us)
        by_endpoint: defaultdict[str, list[BatchItem]] = defaultdict(list)
        for item in items:
            by_endpoint[item.request.route.endpoint].append(item)
        for endpoint, mine in by_endpoint.items():
            self._record(endpoint, mine, part, size)

    def _record(self, endpoint: str, items: Sequence[BatchItem], part: ComputedBatch, size: int) -> None:
        """Hand rows to the event log; tensors where the model's first axis is that of the rows."""
        ended = EndedRequests(
            requests=[item.request for item in items],
            rows=[item.rows for item in items],
            taken_us=[item.taken_us for item in items],
            status=Status.OK,
            started_us=part.started_us,
            computed_us=part.computed_us,
            published_us=now_us(),
            batch=size,
        )
        holds = [item.hold for item in items]
        if not self.model.batches:
            self._rows.add(endpoint, ended, holds=holds)
            return
        inputs, outputs = part.rows_of(items)
        tensors = (*inputs.items(), *outputs.items())
        signature = tuple([(name, array.dtype.str, array.shape[1:]) for name, array in tensors])
        self._rows.add(endpoint, ended, holds=holds, signature=signature, inputs=inputs, outputs=outputs)

    def _finish_broken(self, part: FailedItem) -> None:
        if not self._lane.takes(part):
            self._end_broken(part)

    def _end_broken(self, part: FailedItem) -> None:
        item = part.item
        self._end(item.request, item.hold, part.error, item.taken_us, item.rows, part.started_us, part.computed_us, 1)

    @staticmethod
    def _leave(part: FailedItem) -> None:
        """Let go of a request that is safe in the lane: its answer and its row are for later."""
        for _ in range(PER_REQUEST):
            part.item.hold.settle()

    def _end(
        self,
        request: Request,
        hold: PendingAck,
        error: MillraceError,
        taken_us: int,
        rows: int = 1,
        started_us: int = 0,
        computed_us: int = 0,
        batch: int = 0,
    ) -> None:
        """End a request without a result: its typed answer and its rows."""
        status = BY_WORD[error.status]
        self._answering.answer_one(
            request, status, error_body(str(error)), hold, _between(request.accepted_us, taken_us)
        )
        ended = EndedRequests(
            requests=[request],
            rows=[rows],
            taken_us=[taken_us],
            status=status,
            error=str(error),
            started_us=started_us,
            computed_us=computed_us,
            published_us=now_us(),
            batch=batch,
        )
        self._rows.add(request.route.endpoint, ended, holds=[hold])
        self._metrics.failed(status.word, _between(taken_us, computed_us))

    def _is_pressed(self) -> bool:
        """Tell whether half of what may be held is computed, and waits for its answers and rows alone."""
        computed = self.settling.held - self.in_flight / self._fill
        return computed >= self.prefetch / 2


def _too_late(request: Request) -> Expired:
    allowed_ms = (request.deadline_us - request.accepted_us) / 1000
    return Expired(f"the {allowed_ms:.0f} ms allowed were over before it was computed: allow more time or send less")


def _between(start_us: int, end_us: int) -> int:
    """Return a time that fits its field; clocks of two machines may disagree."""
    return min(max(0, end_us - start_us), 0xFFFFFFFF)
