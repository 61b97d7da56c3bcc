"""Measures whether slow messages delay the other messages of their partition.

One message in a hundred stays unsettled for half a second. In alternating turns, with and without slow messages, it
measures the time of each quick message from its publish to its take.

    python -m loadtests.slow_one --broker kafka://127.0.0.1:29092 [--messages 20000] [--json slow.json]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from broker.base import Broker
from broker.channels import Channels
from broker.connect import connect
from broker.messages import Delivery, Message
from broker.support.tasks import Tasks
from loadtests.report import quantile, report

EVERY = 100
SLOW_S = 0.5
BATCH = 20
PAUSE_S = 0.01  # between batches: 2,000 messages a second
PREFETCH = 2000


class SlowTurn:
    """One turn: a queue that is filled and emptied."""

    def __init__(self, broker: Broker, queue: str, messages: int, *, slow: bool) -> None:
        self._broker = broker
        self._queue = queue
        self._messages = messages
        self._slow = slow
        self._tasks = Tasks()
        self.waits_s: list[float] = []

    async def run(self) -> list[float]:
        """Publish and take all messages; returns the waiting times of the quick ones, in seconds."""
        await self._broker.declare(self._queue)
        taking = asyncio.create_task(self._take())
        await self._broker.publish([self._message(0)])
        await asyncio.sleep(2.0)  # until the consumer has joined its group
        for at in range(1, self._messages, BATCH):
            count = min(BATCH, self._messages - at)
            self._tasks.spawn(
                self._broker.publish([self._message(number) for number in range(at, at + count)]), "publish"
            )
            await asyncio.sleep(PAUSE_S)
        await taking
        await self._tasks.drain()
        await self._broker.delete(self._queue)
        return self.waits_s[EVERY:]

    def _message(self, number: int) -> Message:
        slow = self._slow and number % EVERY == 0
        return Message(queue=self._queue, body=b"%d %d" % (slow, time.time_ns()))

    async def _take(self) -> None:
        consumer = self._broker.consume(self._queue, PREFETCH)
        left = self._messages
        while left:
            deliveries = await consumer.take(PREFETCH)
            now_ns, quick = time.time_ns(), []
            for delivery in deliveries:
                slow, sent_ns = delivery.message.body.split()
                if slow == b"1":
                    self._tasks.spawn(self._settle_later(delivery), "slow")
                else:
                    quick.append(delivery)
                    self.waits_s.append((now_ns - int(sent_ns)) / 1e9)
            await self._broker.ack(quick)
            left -= len(deliveries)

    async def _settle_later(self, delivery: Delivery) -> None:
        await asyncio.sleep(SLOW_S)
        await self._broker.ack([delivery])


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both turns twice, and keep the figures of the second."""
    channels = Channels(f"slow{uuid4().hex[:8]}.")
    figures: dict[str, Any] = {"messages": options.messages, "slow_s": SLOW_S}
    async with connect(options.broker, channels) as broker:
        for turn in range(2):
            for name, slow in (("without", False), ("with", True)):
                queue = channels.requests(f"{name}{turn}")
                waits_s = await SlowTurn(broker, queue, options.messages, slow=slow).run()
                figures[name] = {"p50_ms": 1e3 * quantile(waits_s, 0.5), "p99_ms": 1e3 * quantile(waits_s, 0.99)}
    figures["ratio"] = figures["with"]["p99_ms"] / figures["without"]["p99_ms"]
    return figures


def main() -> None:
    """Parse the options, measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = uvloop.run(measure(options))
    rows = [
        (f"{name} slow ones", f"p50 {figures[name]['p50_ms']:.1f} ms, p99 {figures[name]['p99_ms']:.1f} ms")
        for name in ("without", "with")
    ]
    rows.append(("p99 with / without", f"{figures['ratio']:.2f}"))
    report(f"one in {EVERY} takes {SLOW_S:g} s", rows, figures, options.json)


if __name__ == "__main__":
    main()
