"""The baseline of the path benchmark: bare aiokafka around the same model. Imports none of our packages.

    processor: fetches as a member of a group, computes batches in a thread, sends answers, commits answered requests
    client:    keeps a window of requests in flight to a topic, and counts the answers on another

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
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from loadtests.bare.model import torch_model

PARTITIONS = 8  # equal to the topic on the other side of the comparison
BATCH = 256
SEND_EVERY = 100
BATCH_BYTES = 512 * 1024
FETCH_MS = 100
REPLY_TOPIC = "kafka_replyTopic"

Headers = list[tuple[str, bytes]]


async def declare(servers: str, topic: str, partitions: int) -> None:
    """Create a topic if it does not exist."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])  # raises no error if it exists
    finally:
        await admin.close()


def producer_to(servers: str) -> Any:
    """Create an idempotent producer that waits for all replicas."""
    return AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES)


async def send(producer: Any, topic: str, partition: int, messages: list[tuple[bytes, Headers]]) -> Any:
    """Send messages in one batch, which is far cheaper than single sends; returns the future of their confirmation."""
    batch = producer.create_batch()
    for body, headers in messages:
        if batch.append(key=None, value=body, timestamp=None, headers=headers) is None:
            raise RuntimeError(f"{len(messages)} messages do not fit into {BATCH_BYTES} bytes")
    batch.close()
    return await producer.send_batch(batch, topic, partition=partition)


class BareKafkaProcessor:
    """Answers every request with the model's output for its 64 floats."""

    def __init__(self, consumer: Any, producer: Any, model: Any) -> None:
        self.consumer = consumer
        self.producer = producer
        self.model = model
        self.executor = ThreadPoolExecutor(1)
        self.unconfirmed: asyncio.Queue[tuple[dict[Any, int], list[Any]]] = asyncio.Queue(8)

    async def run(self) -> None:
        """Answer requests until an error."""
        await asyncio.gather(self.answer(), self.commit())

    async def answer(self) -> None:
        """Fetch, compute and answer; commits run at the same time."""
        loop = asyncio.get_running_loop()
        while True:
            fetched = await self.consumer.getmany(timeout_ms=FETCH_MS, max_records=BATCH)
            if not fetched:
                continue
            records = [record for each in fetched.values() for record in each]
            data = b"".join([record.value[-256:] for record in records])
            outputs = await loop.run_in_executor(self.executor, self.model, data)
            ends = {partition: each[-1].offset + 1 for partition, each in fetched.items()}
            await self.unconfirmed.put((ends, await self.reply(records, outputs)))

    async def reply(self, records: list[Any], outputs: list[bytes]) -> list[Any]:
        """Send each answer to the reply topic of its request; returns the futures of the sends."""
        answers: dict[bytes, list[tuple[bytes, Headers]]] = defaultdict(list)
        for record, output in zip(records, outputs, strict=True):
            answers[dict(record.headers)[REPLY_TOPIC]].append((output, []))
        return [await send(self.producer, topic.decode(), 0, each) for topic, each in answers.items()]

    async def commit(self) -> None:
        """Commit the requests whose answers are confirmed, several batches at once if they are ready."""
        while True:
            waiting = [await self.unconfirmed.get()]
            while not self.unconfirmed.empty():
                waiting.append(self.unconfirmed.get_nowait())
            offsets: dict[Any, int] = {}
            for ends, sent in waiting:
                await asyncio.gather(*sent)
                offsets |= ends
            await self.consumer.commit(offsets)


class BareKafkaClient:
    """Keeps `window` requests in flight until `messages` are answered."""

    def __init__(self, consumer: Any, producer: Any, options: argparse.Namespace) -> None:
        self.consumer = consumer
        self.producer = producer
        self.options = options
        self.sent = 0
        self.turn = 0
        self.header = b64decode(options.header)
        self.body = b64decode(options.body)
        self.headers = [("content-type", b"application/octet-stream"), (REPLY_TOPIC, options.reply.encode())]

    async def run(self, messages: int) -> None:
        """Send `messages` requests and wait for their answers."""
        last = self.sent + messages
        answered, unanswered = 0, await self.send(min(self.options.window, messages), last)
        while unanswered > 0:
            fetched = await self.consumer.getmany(timeout_ms=FETCH_MS)
            count = sum(map(len, fetched.values()))
            unanswered -= count
            answered += count
            if answered >= SEND_EVERY or unanswered <= 0:
                unanswered += await self.send(answered, last)
                answered = 0

    async def send(self, number: int, last: int) -> int:
        """Send up to `number` requests in batches, one partition after the other; returns how many were sent."""
        number = min(number, last - self.sent)
        for at in range(0, number, SEND_EVERY):
            messages = [self.request() for _ in range(min(SEND_EVERY, number - at))]
            await send(self.producer, self.options.to, self.turn % PARTITIONS, messages)
            self.turn += 1
        return number

    def request(self) -> tuple[bytes, Headers]:
        """Build the next request."""
        self.sent += 1
        if not self.header:
            return self.body, self.headers
        uid_at, uid = self.options.uid_at, self.sent.to_bytes(16, "big")
        header = self.header[:uid_at] + uid + self.header[uid_at + 16 :]
        return self.body, [("millrace", header), *self.headers]


async def client(options: argparse.Namespace) -> None:
    """Run the client and report the rate."""
    servers = urlsplit(options.url).netloc
    await declare(servers, options.reply, 1)
    replies = TopicPartition(options.reply, 0)
    async with producer_to(servers) as producer:
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, fetch_max_wait_ms=FETCH_MS)
        consumer.assign([replies])
        await consumer.start()
        try:
            await consumer.seek_to_end(replies)
            await consumer.position(replies)
            sender = BareKafkaClient(consumer, producer, options)
            await sender.run(PARTITIONS * SEND_EVERY)  # to every partition, so that all consumers have joined
            before = resource.getrusage(resource.RUSAGE_SELF)
            began = time.perf_counter()
            await sender.run(options.messages)
            took = time.perf_counter() - began
        finally:
            await consumer.stop()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cpu_us = cpu_s / options.messages * 1e6
    sys.stdout.write(json.dumps({"rate": options.messages / took, "client_cpu_us": cpu_us}) + "\n")


async def processor(options: argparse.Namespace) -> None:
    """Run the processor until it is stopped."""
    servers = urlsplit(options.url).netloc
    model = torch_model(options.model)
    await declare(servers, options.to, PARTITIONS)
    consumer = AIOKafkaConsumer(
        options.to,
        bootstrap_servers=servers,
        group_id=options.to,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_MS,
    )
    async with producer_to(servers) as producer, consumer:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await BareKafkaProcessor(consumer, producer, model).run()


def main() -> None:
    """Parse the options and run the client or the processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("client", "processor"))
    parser.add_argument("--url", required=True, help="kafka://host:port")
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
