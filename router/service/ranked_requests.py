"""Queue clients' requests that several rankers answer together.

A source stays unacked until the merged answer and the merge record are both confirmed. If the router dies before that,
the source is delivered again and planned again; with the same uid the merged list is the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from broker.base import Broker, Consumer
from broker.delivery.ack_tracker import AckTracker, PendingAck
from broker.delivery.outbox import Outbox
from broker.delivery.prediction_log import PredictionLogWriter
from broker.delivery.reply_sender import ReplySender
from broker.errors import Failed, InvalidRequest, MillraceError, QueueFull, TooLarge, TryAgain, Unavailable
from broker.messages import Delivery, Outcome, Reason, Settlement
from broker.protocol.answers import error_body
from broker.protocol.bundle import answers_in
from broker.protocol.header import BY_WORD, Answer, BodyForm, Request, pack_route, pack_ticket
from broker.support.tasks import Tasks
from router.ranking.fan_in import SWEEP_S, AnswersByArm, FanIn
from router.ranking.merge_log import MergeLog
from router.service.planning import PlannedRequest

TAKE = 1000
CONFIRMS = 2  # before a source is acked: of its answer and of its merge record
RECORD_PATIENCE_S = 3600.0  # as for rows: meanwhile the source stays unacked
PAUSE_S = 0.2
STOP_S = 10.0  # requests without an answer by then go to another router

logger = logging.getLogger(__name__)


class RankerAnswers:
    """The queue on which rankers answer one router process, for all its endpoints."""

    def __init__(self, broker: Broker, instance: str) -> None:
        self.queue = broker.channels.answers(instance)
        self.fan_in = FanIn()
        self._broker = broker
        self._tasks = Tasks()
        self._opening = asyncio.Lock()
        self._consumer: Consumer | None = None

    async def open(self) -> None:
        """Declare the queue and take from it, on the first call: most routers never need it."""
        async with self._opening:
            if self._consumer is None:
                await self._broker.declare(self.queue)
                self._consumer = self._broker.consume(self.queue, TAKE)
                self._tasks.spawn(self._take(self._consumer), "rankers' answers")
                self._tasks.spawn(self._sweep(), "sweep")

    async def close(self) -> None:
        """Take no more. Open requests get no answer: their sources are delivered to another router."""
        if self._consumer is not None:
            await self._consumer.stop()
        await self._tasks.cancel()

    async def _take(self, consumer: Consumer) -> None:
        while deliveries := await consumer.take(TAKE):
            for delivery in deliveries:
                try:
                    answers = answers_in(delivery.message)
                except InvalidRequest:  # another program wrote to this queue: no request waits for that
                    continue
                for answer in answers:
                    self.fan_in.take(answer)
            await self._broker.ack(deliveries)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.fan_in.sweep()


class SourceDelivery(NamedTuple):
    """A client's message, and the requests planned for it."""

    delivery: Delivery
    planned: PlannedRequest


class RankedRequests:
    """Sends requests to the rankers of one endpoint, merges their answers, and acks the source once all is safe."""

    def __init__(
        self,
        broker: Broker,
        answers: RankerAnswers,
        answering: ReplySender,
        settling: AckTracker,
        rows: PredictionLogWriter,
        *,
        max_batch: Callable[[str, int], int],
        lost: Callable[[str], None],
        stop_s: float = STOP_S,
    ) -> None:
        self._stop_s = stop_s
        self._answers = answers
        self._answering = answering
        self._settling = settling
        self._rows = rows
        self._max_batch = max_batch
        self._inputs = broker.channels.inputs
        self._records = MergeLog(broker, lost=lost, patience_s=RECORD_PATIENCE_S)
        self._outbox: Outbox[Request] = Outbox(broker, self._settled)
        self._tasks = Tasks()
        self._held: set[asyncio.Future[AnswersByArm]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Repeat no failed publish: open requests are answered soon, or go to another router."""
        self._stopping = True

    async def ask(self, sources: Sequence[SourceDelivery]) -> None:
        """Send requests to all their rankers. Requests without answers expire, even while the broker is away."""
        for source in sources:
            self._hold(*source)
        while not self._stopping:
            try:
                await self._answers.open()
            except TryAgain:
                await asyncio.sleep(PAUSE_S)
                self._answers.fan_in.sweep()
            else:
                self._put([ranker for source in sources for ranker in source.planned.rankers])
                return

    async def drain(self) -> None:
        """Wait until open requests are answered and recorded; after `stop_s` leave the rest to another router."""
        until_s = time.monotonic() + self._stop_s
        while self._held and time.monotonic() < until_s:  # noqa: ASYNC110 - an event would cost time for every request
            await asyncio.sleep(SWEEP_S)
        for future in list(self._held):
            future.cancel()
        await self._tasks.drain()
        await self._outbox.drain()
        await self._answering.outbox.drain()
        await self._records.drain()

    def _hold(self, delivery: Delivery, planned: PlannedRequest) -> None:
        request, merging = planned.request, planned.router.merging
        allowed_s = (request.deadline_us - request.accepted_us) / 1e6
        future = self._answers.fan_in.expect(
            request.uid,
            [ranker.route.arm for ranker in planned.rankers],
            wait_s=allowed_s if merging is None else merging.wait_s,
            allowed_s=allowed_s,
        )
        self._held.add(future)
        future.add_done_callback(partial(self._answer, planned, self._settling.hold(delivery, CONFIRMS)))

    # -- out: to the rankers

    def _put(self, rankers: Sequence[Request]) -> None:
        for ranker in rankers:
            route = ranker.route
            self._outbox.put(
                self._inputs(route.model, route.version),
                BodyForm.BUNDLE,
                pack_route(route),
                pack_ticket(ranker, len(ranker.body)),
                ranker.body,
                ranker,
                limit=self._max_batch(route.model, route.version),
            )

    def _settled(self, rankers: Sequence[Request], outcome: Outcome) -> None:
        """Handle the outcome of a publish: wait if it may have succeeded, else repeat it while its answer can count."""
        if outcome.safe or outcome.settlement is Settlement.UNKNOWN or self._stopping:
            return
        if outcome.reason is Reason.TOO_LARGE:
            self._refuse(rankers, outcome)
        else:
            self._tasks.spawn(self._put_again(rankers, outcome), "rankers' queue")

    async def _put_again(self, rankers: Sequence[Request], outcome: Outcome) -> None:
        await asyncio.sleep(PAUSE_S)
        by_need: dict[bool, list[Request]] = {True: [], False: []}
        for ranker in rankers:
            by_need[self._answers.fan_in.waits_for(ranker.uid, ranker.route.arm)].append(ranker)
        if not self._stopping:  # else the next router plans the source again, and ends it
            self._refuse(by_need[False], outcome)
            self._put(by_need[True])

    def _refuse(self, rankers: Sequence[Request], outcome: Outcome) -> None:
        error = _error(outcome)
        self._rows.refuse(rankers, error)
        for ranker in rankers:
            self._answers.fan_in.refuse(ranker.uid, ranker.route.arm, error)

    # -- back: to the client

    def _answer(self, planned: PlannedRequest, hold: PendingAck, future: asyncio.Future[AnswersByArm]) -> None:
        self._held.discard(future)
        if future.cancelled():
            return
        endpoint, record = planned.request.route.endpoint, None
        try:
            answer, record = planned.router.merge(planned.rankers[0], future.result())
        except MillraceError as exc:
            answer = _no_answer(planned.request, exc)
        except Exception:  # no answer of a ranker may end the router for the others
            logger.exception("endpoint %s: the rankers' answers could not be merged", endpoint)
            answer = _no_answer(planned.request, Failed("the router could not merge the rankers' answers"))
        if record is None:
            hold.settle()
        else:
            self._records.put(endpoint, record, hold)
        model = next((one.route.model for one in planned.rankers if one.route.arm == answer.arm), "")
        route = replace(planned.request.route, arm=answer.arm, model=model, version=answer.version)
        result = (bytes(answer.body), answer.json_length)
        self._answering.answer([(planned.request._replace(route=route), result, hold, (0, 0, 0))], answer.status)


def _no_answer(request: Request, error: MillraceError) -> Answer:
    return Answer(uid=request.uid, status=BY_WORD[error.status], body=error_body(str(error)))


def _error(outcome: Outcome) -> MillraceError:
    if outcome.is_full:
        return QueueFull(f"the queue of this ranker's model: {outcome}")
    if outcome.reason is Reason.TOO_LARGE:
        return TooLarge("the request is larger than the broker takes")
    return Unavailable("the queue of this ranker's model is not there")
