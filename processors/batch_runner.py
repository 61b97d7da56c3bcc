"""Forms batches of requests, and computes them one after the other in the model's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from broker.errors import MillraceError
from broker.protocol.ids import is_over, now_us
from processors.batcher import Batcher, BatchItem
from processors.model import ComputedBatch, FailedItem, LoadedModel
from processors.worker import Worker

WORKER_DEPTH = 2

Results: TypeAlias = Sequence[ComputedBatch | FailedItem]
"""The results of one batch: one computed batch, or its parts if a request in it made the model fail."""


class BatchRunner:
    """Keeps the model busy: one batch runs, and a full one waits behind it, so that no time is lost between two.

    A request whose deadline has passed when its batch is formed goes to `expire` and is not computed.
    """

    def __init__(self, model: LoadedModel, *, expire: Callable[[BatchItem], None]) -> None:
        self._model = model
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher(max_rows=model.max_rows, delay_s=model.config.max_queue_delay_us / 1e6)
        self._worker = Worker(self._compute, self._computed, name=f"infer-{model.config.name}")
        self._finish: Callable[[Results], None] | None = None
        self._batches_out = 0  # at the worker
        self._requests_out = 0
        self._moved = asyncio.Event()  # a batch was started or finished

    @property
    def in_flight(self) -> int:
        """How many requests wait for a batch or are being computed."""
        return self._batcher.waiting_requests + self._requests_out

    def add(self, items: Sequence[BatchItem], finish: Callable[[Results], None]) -> None:
        """Add requests; `finish` is called on the event loop with the results of each batch."""
        self._finish = finish
        for item in items:
            self._batcher.put(item)
        self._pump()

    async def wait_for_room(self) -> None:
        """Wait until fewer than two batches' worth of rows wait."""
        while not self._batcher.has_room:
            await self._movement()

    async def drain(self) -> None:
        """Wait until every request is computed."""
        while self.in_flight:
            await self._movement()

    def close(self) -> None:
        """Let the worker's thread end."""
        self._worker.close()

    def _pump(self) -> None:
        """Give batches to the worker until one runs and one waits, or none is due."""
        while self._batches_out < WORKER_DEPTH:
            batch = self._batcher.pop(full=self._batches_out > 0)
            if not batch:
                break
            current = self._without_expired(batch)
            if current:
                self._batches_out += 1
                self._requests_out += len(current)
                self._worker.put(current)
        self._moved.set()
        if not self._batches_out and (pause_s := self._batcher.due_in_s()) is not None:
            self._loop.call_later(pause_s, self._pump)  # 0 if a batch has become due since `pop`

    def _without_expired(self, batch: Sequence[BatchItem]) -> Sequence[BatchItem]:
        now = now_us()
        late = [item for item in batch if is_over(item.request.deadline_us, now)]
        for item in late:
            self._expire(item)
        return [item for item in batch if item not in late] if late else batch

    def _compute(self, batch: Sequence[BatchItem]) -> list[ComputedBatch | FailedItem]:
        """Compute a batch in the worker's thread; if it fails, compute its halves, so that only the cause fails."""
        started_us = now_us()
        try:
            inputs, outputs = self._model.infer(batch)
        except MillraceError as exc:
            if len(batch) == 1:
                return [FailedItem(item=batch[0], error=exc, started_us=started_us, computed_us=now_us())]
            half = len(batch) // 2
            return self._compute(batch[:half]) + self._compute(batch[half:])
        return [ComputedBatch(items=batch, inputs=inputs, outputs=outputs, started_us=started_us, computed_us=now_us())]

    def _computed(self, batch: Sequence[BatchItem], results: Results) -> None:
        """Start the next batch first, then finish this one while the next one runs."""
        self._batches_out -= 1
        self._pump()
        if self._finish is not None:
            self._finish(results)
        self._requests_out -= len(batch)
        self._moved.set()

    async def _movement(self) -> None:
        self._moved.clear()
        await self._moved.wait()
