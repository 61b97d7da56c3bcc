"""One hop through RabbitMQ with bare pika on uvloop: the baseline of the broker port.

A publisher of persistent messages with a window of confirms, and a consumer with a prefetch of the same size and
multiple acks, each in its own process. Imports none of our packages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from typing import Any

import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection

WINDOW = 1000
ACK_EVERY = 100


class BareHop:
    """One end of the hop; `done` is resolved when all messages are confirmed or consumed."""

    def __init__(self, url: str, queue: str, messages: int) -> None:
        self.queue = queue
        self.messages = messages
        self.passed = 0
        self.began_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.channel: Any = None
        self.connection = AsyncioConnection(
            pika.URLParameters(url), on_open_callback=lambda connection: connection.channel(on_open_callback=self.open)
        )

    def open(self, channel: Any) -> None:
        """Start when the channel is open."""
        self.channel = channel
        self.start()

    def start(self) -> None:
        """Publish or consume."""
        raise NotImplementedError

    def count(self, passed: int) -> None:
        """Set the number of passed messages; the time starts with the first."""
        self.began_s = self.began_s or time.time()
        self.passed = passed
        if passed >= self.messages and not self.done.done():
            self.done.set_result(None)


class BareHopPublisher(BareHop):
    """Keeps the window of unconfirmed messages full."""

    def __init__(self, url: str, queue: str, messages: int, size: int) -> None:
        super().__init__(url, queue, messages)
        self.body = b"x" * size
        self.sent = 0
        self.properties = pika.BasicProperties(
            content_type="application/octet-stream", delivery_mode=2, headers={"millrace": b"h" * 120}
        )

    def start(self) -> None:
        """Switch on publisher confirms, then publish."""
        self.channel.confirm_delivery(self.confirmed, callback=lambda _: self.fill())

    def fill(self) -> None:
        """Publish until the window is full."""
        self.began_s = self.began_s or time.time()
        while self.sent < self.messages and self.sent - self.passed < WINDOW:
            self.channel.basic_publish("", self.queue, self.body, self.properties, mandatory=True)
            self.sent += 1

    def confirmed(self, frame: Any) -> None:
        """Count a confirm: a single one adds one, a multiple one has the total number."""
        method = frame.method
        self.count(max(self.passed, method.delivery_tag) if method.multiple else self.passed + 1)
        if self.sent - self.passed < WINDOW * 3 // 4:
            self.fill()


class BareHopConsumer(BareHop):
    """Acks every hundredth delivery and all before it."""

    def start(self) -> None:
        """Start to consume."""
        self.channel.basic_qos(prefetch_count=WINDOW, callback=lambda _: None)
        self.channel.basic_consume(self.queue, self.taken, callback=self.ready)

    def ready(self, _: Any) -> None:
        """Report that the publisher may start."""
        send_report({"ready": True, "server": f"RabbitMQ {self.connection.server_properties['version']}"})

    def taken(self, channel: Any, method: Any, _: Any, __: bytes) -> None:
        """Count a delivery, and ack every hundredth."""
        if method.delivery_tag % ACK_EVERY == 0 or method.delivery_tag == self.messages:
            channel.basic_ack(method.delivery_tag, multiple=True)
        self.count(self.passed + 1)


def send_report(report: dict[str, Any]) -> None:
    """Write a line of JSON for the parent process."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


async def run(options: argparse.Namespace) -> None:
    """Publish or consume all messages, and report the times and the CPU time."""
    if options.role == "publish":
        hop: BareHop = BareHopPublisher(options.url, options.queue, options.messages, options.size)
    else:
        hop = BareHopConsumer(options.url, options.queue, options.messages)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await hop.done
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    send_report({"began_s": hop.began_s, "ended_s": time.time(), "cpu_us": cpu_s / options.messages * 1e6})
    hop.connection.close()
    await asyncio.sleep(0.2)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["publish", "consume"])
    parser.add_argument("url")
    parser.add_argument("queue")
    parser.add_argument("messages", type=int)
    parser.add_argument("size", type=int)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
