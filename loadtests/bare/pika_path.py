"""The baseline of the path benchmark: bare pika around the same model. Imports none of our packages.

    processor: consumes a quorum queue, computes batches in a thread, publishes answers with confirms, acks multiple
    client:    keeps a window of requests in flight to a queue, and counts the answers on another

Each is a process. Both sides of the comparison use the same client: it writes a 16-byte id into the header, if any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from base64 import b64decode
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection

from loadtests.bare.model import torch_model

PREFETCH = 1000
BATCH = 128
ACK_EVERY = 100


async def channel_to(url: str) -> Any:
    """Open a channel on a new connection."""
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=opened.set_result),
    )
    return await opened


async def declare(channel: Any, queue: str) -> None:
    """Declare a quorum queue."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"}, callback=done.set_result)
    await done


class BarePikaProcessor:
    """Answers every request with the model's output for its 64 floats."""

    def __init__(self, channel: Any, queue: str, model: Any) -> None:
        self.channel = channel
        self.model = model
        self.loop = asyncio.get_running_loop()
        self.executor = ThreadPoolExecutor(1)
        self.waiting: deque[tuple[int, str, bytes]] = deque()
        self.unconfirmed: deque[tuple[int, int]] = deque()
        self.published = 0
        self.computing = False
        channel.confirm_delivery(self.confirmed)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue, self.taken)

    def taken(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        """Collect a request; start to compute if the thread is idle."""
        self.waiting.append((method.delivery_tag, properties.reply_to, body))
        if not self.computing:
            self.computing = True
            self.loop.call_soon(self.start)

    def start(self) -> None:
        """Compute up to BATCH waiting requests."""
        batch = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]
        self.computing = bool(batch)
        if batch:
            running = self.loop.run_in_executor(
                self.executor, self.model, b"".join([body[-256:] for _, _, body in batch])
            )
            running.add_done_callback(lambda done: self.finish(batch, done.result()))

    def finish(self, batch: list[tuple[int, str, bytes]], outputs: list[bytes]) -> None:
        """Start the next batch, and publish the answers of this one."""
        self.start()
        for (_, reply_to, _), output in zip(batch, outputs, strict=True):
            self.channel.basic_publish("", reply_to, output, pika.BasicProperties(delivery_mode=2), mandatory=True)
        self.published += len(batch)
        self.unconfirmed.append((self.published, batch[-1][0]))

    def confirmed(self, frame: Any) -> None:
        """Ack the requests whose answers are confirmed."""
        last = 0
        while self.unconfirmed and self.unconfirmed[0][0] <= frame.method.delivery_tag:
            last = self.unconfirmed.popleft()[1]
        if last:
            self.channel.basic_ack(last, multiple=True)


class BarePikaClient:
    """Keeps `window` requests in flight until `messages` are answered."""

    def __init__(self, channel: Any, options: argparse.Namespace) -> None:
        self.channel = channel
        self.options = options
        self.sent = 0
        self.answered = 0
        self.unacked = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.header = b64decode(options.header)
        self.body = b64decode(options.body)
        channel.confirm_delivery(lambda _: None)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(options.reply, self.answer)

    def send(self, number: int) -> None:
        """Publish up to `number` requests."""
        options = self.options
        for _ in range(min(number, options.messages - self.sent)):
            self.sent += 1
            headers = None
            if self.header:
                uid = self.sent.to_bytes(16, "big")
                headers = {"millrace": self.header[: options.uid_at] + uid + self.header[options.uid_at + 16 :]}
            properties = pika.BasicProperties(
                delivery_mode=2, reply_to=options.reply, headers=headers, content_type="application/octet-stream"
            )
            self.channel.basic_publish("", options.to, self.body, properties, mandatory=True)

    def answer(self, _: Any, method: Any, __: Any, ___: bytes) -> None:
        """Count an answer; after every ACK_EVERY answers ack them and send as many requests."""
        self.answered += 1
        self.unacked += 1
        if self.unacked >= ACK_EVERY or self.answered >= self.options.messages:
            self.channel.basic_ack(method.delivery_tag, multiple=True)
            self.send(self.unacked)
            self.unacked = 0
        if self.answered >= self.options.messages and not self.done.done():
            self.done.set_result(None)


async def client(options: argparse.Namespace) -> None:
    """Run the client and report the rate."""
    channel = await channel_to(options.url)
    await declare(channel, options.reply)
    sender = BarePikaClient(channel, options)
    began = time.perf_counter()
    sender.send(options.window)
    await sender.done
    took = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (usage.ru_utime + usage.ru_stime) / options.messages * 1e6
    sys.stdout.write(json.dumps({"rate": options.messages / took, "client_cpu_us": cpu}) + "\n")
    channel.connection.close()


async def processor(options: argparse.Namespace) -> None:
    """Run the processor until it is stopped."""
    model = torch_model(options.model)
    channel = await channel_to(options.url)
    await declare(channel, options.to)
    BarePikaProcessor(channel, options.to, model)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Parse the options and run the client or the processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("client", "processor"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--reply", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--header", default="")
    parser.add_argument("--body", default="")
    parser.add_argument("--uid-at", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(client(options) if options.role == "client" else processor(options))


if __name__ == "__main__":
    main()
