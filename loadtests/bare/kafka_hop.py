"""One hop through Kafka with bare aiokafka on uvloop: the baseline of the broker port.

An idempotent producer with a window of unconfirmed sends, and a member of a group that commits after every fetch, each
in its own process. Imports none of our packages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from importlib.metadata import version
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

WINDOW = 1000
HEADERS = [("millrace", b"h" * 120)]
BATCH_BYTES = 64 * 1024


async def publish(servers: str, topic: str, messages: int, size: int) -> float:
    """Send all messages with at most WINDOW unconfirmed; returns the start time."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    slots = asyncio.Semaphore(WINDOW)
    body = b"x" * size
    began_s = time.time()
    try:
        for _ in range(messages):
            await slots.acquire()
            future = await producer.send(topic, body, headers=HEADERS)
            future.add_done_callback(lambda _: slots.release())
        await producer.flush()
    finally:
        await producer.stop()
    return began_s


async def consume(servers: str, topic: str, messages: int) -> float:
    """Fetch all messages and commit after each fetch; returns the time of the first fetch."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=topic,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    send_report({"ready": True, "server": f"Kafka, aiokafka {version('aiokafka')}"})
    left, began_s = messages, 0.0
    try:
        while left:
            fetched = await consumer.getmany(timeout_ms=100, max_records=WINDOW)
            began_s = began_s or time.time()
            if fetched:
                await consumer.commit()
                left -= sum(map(len, fetched.values()))
    finally:
        await consumer.stop()
    return began_s


def send_report(report: dict[str, Any]) -> None:
    """Write a line of JSON for the parent process."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


async def run(options: argparse.Namespace) -> None:
    """Publish or consume all messages, and report the times and the CPU time."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    if options.role == "publish":
        began_s = await publish(options.servers, options.queue, options.messages, options.size)
    else:
        began_s = await consume(options.servers, options.queue, options.messages)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    send_report({"began_s": began_s, "ended_s": time.time(), "cpu_us": cpu_s / options.messages * 1e6})


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["publish", "consume"])
    parser.add_argument("servers", help="host:port")
    parser.add_argument("queue")
    parser.add_argument("messages", type=int)
    parser.add_argument("size", type=int)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
