"""Sends requests through Kafka for locust's users: aiokafka in a greenlet."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any
from uuid import uuid4

import gevent
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code
from gevent.event import Event

from broker.kafka.address import KafkaAddress

SILENCE_S = 10.0


class KafkaClient:
    """A producer, a reply topic and its consumer, shared by all users of a process.

    aiokafka needs asyncio. Its event loop runs in another greenlet of the same thread: locust has patched the selectors
    in which the loop waits, so that the users run meanwhile.
    """

    def __init__(self, url: str, queue: str) -> None:
        self._arguments = {**KafkaAddress.of(url).arguments, "client_id": "locust"}
        self._queue = queue
        self._replies = f"replies-{uuid4().hex}"
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._producer: Any = None
        self._opened = Event()
        self._closing = asyncio.Event()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._life = gevent.spawn(self._live)

    def open(self) -> None:
        """Wait until requests can be sent; raises the error if the client could not start."""
        gevent.wait([self._opened, self._life], count=1)
        if self._life.ready():
            self._life.get()

    def close(self) -> None:
        """Close the client and delete the reply topic."""
        if not self._life.ready():
            self._loop.call_soon_threadsafe(self._closing.set)  # a plain call would not wake the loop
            self._life.join()

    def ask(self, body: bytes, headers: dict[str, str]) -> Any:
        """Publish one request and return the record of its answer; raises RuntimeError if none arrives."""
        return asyncio.run_coroutine_threadsafe(self._ask(body, headers), self._loop).result()

    async def _ask(self, body: bytes, headers: dict[str, str]) -> Any:
        correlation_id = str(next(self._numbers))
        named = {**headers, "kafka_replyTopic": self._replies, "kafka_correlationId": correlation_id}
        packed = [(name, value.encode()) for name, value in named.items()]
        answer = self._waiting[correlation_id] = self._loop.create_future()
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._producer.send_and_wait(self._queue, body, headers=packed)
                return await answer
        except TimeoutError:
            raise RuntimeError(f"no answer within {SILENCE_S:.0f} s") from None
        finally:
            del self._waiting[correlation_id]

    def _live(self) -> None:
        with self._runner:
            self._runner.run(self._main())

    async def _main(self) -> None:
        admin = AIOKafkaAdminClient(**self._arguments)
        try:
            await admin.start()
            await self._prepare(admin)
            try:
                await self._serve()
            finally:
                await admin.delete_topics([self._replies])
        finally:
            await admin.close()

    async def _prepare(self, admin: Any) -> None:
        (found,) = await admin.describe_topics([self._queue])
        if found["error_code"]:  # a producer would wait for the topic, or create it
            error = for_code(found["error_code"]).__name__
            raise RuntimeError(f"{self._queue}: {error}: are --prefix and --endpoint right?")
        made = await admin.create_topics([NewTopic(self._replies, 1, 1)])
        if code := made.topic_errors[0][1]:
            raise RuntimeError(f"{self._replies}: Kafka does not create this topic ({for_code(code).__name__})")

    async def _serve(self) -> None:
        """Pass on answers until `close` or an error of the consumer; every later request then fails."""
        async with (
            AIOKafkaProducer(**self._arguments) as self._producer,
            AIOKafkaConsumer(self._replies, **self._arguments, auto_offset_reset="earliest") as consumer,
        ):
            self._opened.set()
            tasks = [asyncio.create_task(self._read(consumer)), asyncio.create_task(self._closing.wait())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _read(self, consumer: Any) -> None:
        async for record in consumer:
            waiting = self._waiting.get(dict(record.headers)["kafka_correlationId"].decode())
            if waiting is not None and not waiting.done():  # the request may have timed out or been answered before
                waiting.set_result(record)
