"""One run of the demonstration: sends requests and true labels, checks the log, and prints the table."""

from __future__ import annotations

from rich.console import Console

from broker.base import Broker
from deploy.demo.digits import Digits
from deploy.demo.folder import ENDPOINT
from deploy.demo.http_half import HttpHalf, http_half
from deploy.demo.pace import at_once
from deploy.demo.progress import Steps
from deploy.demo.queue_half import WINDOW, QueueHalf, queue_half
from deploy.demo.rows import RowCheck
from deploy.demo.serving import gateway_of, wait_for_arms
from deploy.demo.table import print_summary, print_table
from deploy.demo.tally import Tally, TallyAnswer
from deploy.demo.train import ARMS
from deploy.demo.wire import ask
from deploy.wiring import Installation

CONNECTIONS = 32


class Show:
    """Sends all held-out digits; `held` is True if each was answered exactly once and the log agrees."""

    def __init__(self, console: Console, steps: Steps, installation: Installation, digits: Digits) -> None:
        self.console = console
        self.held = False
        self._steps = steps
        self._installation = installation
        self._digits = digits
        self._tally = Tally(digits.labels)

    async def run(self) -> None:
        """Send requests and feedback, check the log, and print the result."""
        await wait_for_arms(self._steps, self._installation, {ENDPOINT: ARMS})
        async with self._installation.broker() as broker, http_half(gateway_of(self._installation)) as by_http:
            log = broker.channels.events(ENDPOINT)
            await broker.declare(log)
            start = await broker.end(log)
            async with queue_half(broker, [ENDPOINT]) as by_queue:
                await self._send_all(by_http, by_queue)
                feedback = await self._send_labels(by_http)
                rows = await self._check(broker, start, feedback)
                self._tally.take_all(reply for _, reply in by_queue.repeats)
        complaints = self._tally.complaints() + rows.complaints()
        print_table(self.console, self._tally, rows)
        print_summary(self.console, self._tally, feedback, complaints)
        self.held = not complaints

    async def _send_all(self, by_http: HttpHalf, by_queue: QueueHalf) -> None:
        numbers = range(len(self._digits.labels))
        await self._send_half("digits by HTTP", by_http, CONNECTIONS, numbers[0::2])
        await self._send_half("digits through the queue", by_queue, WINDOW, numbers[1::2])

    async def _send_half(self, title: str, half: HttpHalf | QueueHalf, limit: int, numbers: range) -> None:
        with self._steps.step(title, len(numbers)) as advance:

            async def one(number: int) -> None:
                reply = await half.send(ask(ENDPOINT, self._digits.images[number], number))
                if reply is not None:
                    self._tally.take(reply)
                    advance(1)

            await at_once(limit, numbers, one)

    async def _send_labels(self, by_http: HttpHalf) -> int:
        """Send the true label of each result as feedback; returns how many were accepted."""
        accepted = 0
        with self._steps.step("true labels as feedback", len(self._tally.ids())) as advance:

            async def one(answer: TallyAnswer) -> None:
                nonlocal accepted
                truth = int(self._tally.labels[answer.number])
                was_accepted = await by_http.send_feedback(ENDPOINT, answer.request_id, truth=truth)
                accepted += was_accepted
                advance(1)

            await at_once(CONNECTIONS, self._tally.results(), one)
        return accepted

    async def _check(self, broker: Broker, start: int, feedback: int) -> RowCheck:
        ids = self._tally.ids()
        rows = RowCheck(ENDPOINT, dict.fromkeys(ids, 1), feedback)
        with self._steps.step("rows in the event log", len(ids)) as advance:
            await rows.read(broker, start, advance)
        return rows
