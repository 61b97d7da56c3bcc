"""Brings answers of stored requests into the results store and to the clients that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.base import Consumer
from broker.errors import InvalidRequest, TryAgain, Unreachable
from broker.protocol.bundle import answers_in
from broker.protocol.header import Answer, Request
from broker.support.backoff import TRY_AGAIN_S
from broker.support.tasks import Tasks
from gateway.core.core import Core
from gateway.core.rate import AnswerRate
from gateway.results.store import ResultsStore
from gateway.results.waits import AnswerWaits

TAKE = 32  # messages, which may be large
POLL_S = 0.1  # another gateway may have stored the answer
FIND_LIMIT = 500  # uids in one look-up
MEASURE_S = 1.0


class AnswerIntake:
    """Takes answers from the store's queue, and looks in the store for answers that other gateways took.

    An answer is acked after it is stored. The first answer of a request counts; later ones are dropped.
    """

    def __init__(self, core: Core, results: ResultsStore, waits: AnswerWaits) -> None:
        self._core = core
        self._results = results
        self._waits = waits
        self._tasks = Tasks()
        self._consumer: Consumer | None = None
        self._rate = AnswerRate()
        self._answered = 0  # since the rate was last measured

    def start(self, queue: str) -> None:
        """Start to take answers from `queue`."""
        self._consumer = self._core.broker.consume(queue, TAKE)
        self._tasks.spawn(self._take(self._consumer), "stored answers")
        self._tasks.spawn(self._poll(), "answers that others stored")
        self._tasks.spawn(self._measure(), "rate of stored answers")

    async def close(self) -> None:
        """Stop taking. Answers that are not stored yet are redelivered to another gateway, or later."""
        if self._consumer is not None:
            await self._consumer.stop()
        await self._tasks.cancel()

    async def drain_s(self, request: Request) -> float:
        """Seconds that the queue of a request takes to drain, at the measured rate of stored answers."""
        try:
            depth = await self._core.broker.depth(self._core.inputs(request.route.model, request.route.version))
        except TryAgain:
            return MEASURE_S
        return self._rate.drain_s(depth.requests)

    async def _take(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(TAKE):
            answers: list[Answer] = []
            for delivery in deliveries:
                try:
                    answers += answers_in(delivery.message)
                except InvalidRequest:  # only our own processes may write here, so no client waits for this message
                    self._core.pending.unclaimed += 1
            first = await self._store(answers)
            await self._core.broker.ack(deliveries)
            self._answered += sum(first)
            self._core.pending.unclaimed += len(first) - sum(first)
            for answer, is_first in zip(answers, first, strict=True):
                if is_first:
                    self._waits.resolve(answer)

    async def _store(self, answers: Sequence[Answer]) -> list[bool]:
        """Store answers; while the store cannot be reached, wait: the answers are not acked until they are stored."""
        while True:
            try:
                return await self._results.end(answers)
            except Unreachable:
                await asyncio.sleep(TRY_AGAIN_S)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            uids = self._waits.uids()
            for at in range(0, len(uids), FIND_LIMIT):
                try:
                    found = await self._results.find(uids[at : at + FIND_LIMIT])
                except Unreachable:
                    break
                for stored in found.values():
                    if stored.answer is not None:
                        self._waits.resolve(stored.answer)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_S)
            if self._answered:
                self._rate.observe(self._answered, MEASURE_S)
                self._answered = 0
