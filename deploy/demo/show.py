"""What the demonstration does with a running installation: ask, tell the truth, check the log, print the table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich.console import Console

from broker.base import Broker
from deploy.demo import http_half
from deploy.demo.digits import Digits
from deploy.demo.folder import ENDPOINT
from deploy.demo.progress import Steps
from deploy.demo.queue_half import QueueHalf
from deploy.demo.rows import RowCheck
from deploy.demo.table import print_summary, print_table
from deploy.demo.tally import Tally
from deploy.demo.train import ARMS
from deploy.supervisor import wait_until_ready
from deploy.wiring import Installation

READY_WITHIN_S = 150.0


class Show:
    """One pass over the held-out digits."""

    def __init__(self, console: Console, steps: Steps, installation: Installation, digits: Digits) -> None:
        self.console = console
        self._steps = steps
        self._installation = installation
        self._digits = digits
        self._gateway = (installation.settings.gateway.host, installation.settings.gateway.http_port)
        self._tally = Tally(digits.labels)

    async def run(self) -> int:
        """Return 0 if every request was answered exactly once and the event log agrees, else 1."""
        await self._wait()
        async with self._installation.broker() as broker:
            log = broker.channels.events(ENDPOINT)
            await broker.declare(log)
            start = await broker.end(log)
            queue_half = QueueHalf(broker, self._digits, self._tally)
            await queue_half.open()
            try:
                await self._ask(queue_half)
                feedback = await self._tell_truth()
                rows = await self._check(broker, start, feedback)
            finally:
                await queue_half.close()
        complaints = self._tally.complaints() + rows.complaints()
        print_table(self.console, self._tally, rows)
        print_summary(self.console, self._tally, feedback, complaints)
        return 1 if complaints else 0

    async def _wait(self) -> None:
        engine = self._installation.settings.processors.engine
        with self._steps.step(f"starting gateway, router, monitors and processors (engine {engine})"):
            for arm in ARMS:
                path = f"/v2/models/{ENDPOINT}/versions/{arm}/ready"
                await wait_until_ready(self._gateway[1], self._gateway[0], READY_WITHIN_S, path=path)

    async def _ask(self, queue_half: QueueHalf) -> None:
        numbers = range(len(self._digits.labels))
        by_http, by_queue = numbers[0::2], numbers[1::2]
        with self._steps.step("digits by HTTP", len(by_http)) as advance:
            await http_half.ask(self._gateway, self._digits, by_http, self._tally, _one(advance))
        with self._steps.step("digits through the queue", len(by_queue)) as advance:
            await queue_half.ask(by_queue, _one(advance))

    async def _tell_truth(self) -> int:
        with self._steps.step("true labels as feedback", len(self._tally.ids())) as advance:
            return await http_half.tell_truth(self._gateway, self._tally, _one(advance))

    async def _check(self, broker: Broker, start: int, feedback: int) -> RowCheck:
        rows = RowCheck(self._tally.ids(), feedback)
        with self._steps.step("rows in the event log", len(self._tally.ids())) as advance:
            await rows.read(broker, start, advance)
        return rows


def _one(advance: Callable[[int], None]) -> Callable[[], None]:
    return partial(advance, 1)
