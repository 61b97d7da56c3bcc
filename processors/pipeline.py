"""The life of a delivery inside a processor: take, admit, batch, compute, answer, record, ack.

Nothing is taken that could not be computed soon. While one batch runs in the model's thread, the next one is collected
and the answers of the last one are being published.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from broker.base import Broker, Consumer
from broker.delivery.ack_tracker import AckTracker
from broker.messages import Delivery
from broker.records.endpoint import Endpoint
from processors.admission import DeliveryAdmission
from processors.batch_runner import BatchRunner, Results
from processors.batcher import BatchItem
from processors.metrics import ProcessorMetrics
from processors.model import FailedItem, LoadedModel
from processors.outcomes import OutcomeWriter
from processors.prefetch import PrefetchWindow
from processors.retry_queue import PATIENCE_S, RetryQueue
from processors.transfer import DeliveryTransfer

Take: TypeAlias = Callable[[], Awaitable[Sequence[Delivery]]]
Admit: TypeAlias = Callable[[Sequence[Delivery]], Sequence[BatchItem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How a pipeline runs."""

    instance: str
    grace_s: float = 20.0
    retry_patience_s: float = PATIENCE_S  # of a failed request for its retry queue


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
        self.acks = AckTracker(broker)
        self._window = PrefetchWindow(model.max_rows)
        self._outcomes = OutcomeWriter(
            broker, model, endpoints, metrics, source=f"/millrace/{settings.instance}", is_pressed=self._is_pressed
        )
        self._retries = RetryQueue(
            broker,
            self.queue,
            endpoints,
            on_rejected=self._outcomes.fail_item,
            patience_s=settings.retry_patience_s,
        )
        self._runner = BatchRunner(model, expire=self._outcomes.expire)
        self._admission = DeliveryAdmission(
            model,
            endpoints,
            cancels=cancels,
            acks=self.acks,
            outcomes=self._outcomes,
            transfer=DeliveryTransfer(broker, self.queue, metrics),
            dead_queue=broker.channels.dead(self.queue),
        )

    @property
    def in_flight(self) -> int:
        """How many requests wait or are computed here."""
        return self._runner.in_flight

    @property
    def trouble(self) -> str:
        """Why computed requests are still held here; empty if there is no reason."""
        return self._outcomes.trouble

    @property
    def prefetch(self) -> int:
        """How many broker messages may be held: eight batches, by the observed fill of messages."""
        return self._window.size

    async def run(self, consumer: Consumer) -> None:
        """Serve the model's queue until `consumer` is stopped; it must have been made with our `prefetch`."""
        self._window.start()
        await self._serve(lambda: self._window.take(consumer), self._admission.admit)

    async def run_alone(self, delivery: Delivery) -> None:
        """Serve one request of the retry queue while nothing else is held; bury it after too many attempts."""
        remaining: list[list[Delivery]] = [[], [delivery]]

        async def take() -> list[Delivery]:
            return remaining.pop()

        await self._serve(take, self._admission.admit_alone)

    async def _serve(self, take: Take, admit: Admit) -> None:
        """Serve until `take` returns nothing, then drain. Every delivery lives through these lines, top to bottom.

        `admit` decodes. Requests that are invalid, expired or cancelled get their answer and row there; deliveries
        that came back or cannot be read leave there for another queue.
        """

        def finish(results: Results) -> None:  # on the event loop, once per batch, while the next batch is computed
            for result in results:
                if isinstance(result, FailedItem):
                    if not self._retries.accept(result):
                        self._outcomes.fail_item(result)
                else:
                    answered = self._outcomes.answer(result)
                    self._outcomes.record(result, answered)

        while deliveries := await take():
            admitted = admit(deliveries)  # registers each delivery with the ack tracker
            self._runner.add(admitted, finish)  # batches, computes, and calls `finish`
            await self._runner.wait_for_room()
        await self.drain()  # a delivery is acked once all of its answers and rows are confirmed

    async def drain(self) -> None:
        """Wait until every delivery that was taken is acked, buried, or back in a queue."""
        await self._runner.drain()
        await self._admission.drain()
        await self._retries.drain()
        await self._outcomes.drain()
        await self.acks.drain()

    def close(self) -> None:
        """Let the model's thread end."""
        self._runner.close()

    def _is_pressed(self) -> bool:
        """Return True if computed requests that wait only for confirmations fill half of the prefetch."""
        computed = self.acks.held - self.in_flight / self._window.fill
        return computed >= self.prefetch / 2
