"""A TCP proxy before the broker, whose connections a test can cut."""

from __future__ import annotations

import asyncio
from typing import Self

import pika

PIECE_BYTES = 4096


class Proxy:
    """Passes bytes on until told otherwise."""

    def __init__(self, url: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget: int | None = None
        self.connections = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut all connections now; new ones are taken."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()

    def cut_after(self, sent_bytes: int) -> None:
        """Cut all connections once clients have sent so many more bytes."""
        self._budget = sent_bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        broker_reader, broker_writer = await asyncio.open_connection(self._parameters.host, self._parameters.port)
        self._writers += [writer, broker_writer]
        for source, sink, counts in ((reader, broker_writer, True), (broker_reader, writer, False)):
            task = asyncio.create_task(self._pump(source, sink, counts=counts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counts: bool) -> None:
        try:
            while data := await source.read(PIECE_BYTES):
                sink.write(data)
                await sink.drain()
                if counts and self._budget is not None:
                    self._spend(len(data))
        except OSError:
            pass
        finally:
            sink.close()

    def _spend(self, sent_bytes: int) -> None:
        assert self._budget is not None
        self._budget -= sent_bytes
        if self._budget <= 0:
            self._budget = None
            self.cut()
