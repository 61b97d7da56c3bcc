"""A TCP proxy in front of a broker; a test can cut its connections, or hold them so that no bytes pass."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self
from urllib.parse import urlsplit

PIECE_BYTES = 4096
HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0: closing sends RST
LENGTH_BYTES = 4  # the length before each of Kafka's responses

Read = Callable[[asyncio.StreamReader], Awaitable[bytes]]


class Proxy:
    """Passes bytes on in both directions; `url` is the broker's address with the proxy's host and port.

    A Kafka client connects to the address that the broker advertises, so the proxy replaces it with its own in Kafka's
    responses. This needs a broker that advertises 127.0.0.1 with the port of its URL, without TLS.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._read_responses: Read = _read
        self.connections = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._parts.netloc.rpartition("@")
        self.url = self._parts._replace(netloc=f"{user}{at}{HOST}:{port}").geturl()
        if self._parts.scheme == "kafka":
            self._read_responses = _read_kafka(_address(self._parts.port or 0), _address(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset all connections now; new ones are accepted."""
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.reset()

    def cut_after(self, sent_bytes: int) -> None:
        """Cut all connections after clients have sent `sent_bytes` more bytes."""
        self._budget = sent_bytes

    def hold(self) -> None:
        """Pass on neither bytes nor the end of a connection; new connections are accepted and get no bytes."""
        self._flowing.clear()

    def go_on(self) -> None:
        """Pass on the held bytes, and all that follow."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            await self._flowing.wait()
            broker_reader, broker_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            connection.add(broker_writer)
            await asyncio.gather(
                self._pump(reader, broker_writer, _read, counts=True),
                self._pump(broker_reader, writer, self._read_responses, counts=False),
            )
        except OSError:  # no broker there
            connection.reset()
        finally:
            connection.close()
            self._connections.discard(connection)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, read: Read, *, counts: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await read(source):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
                if counts and self._budget is not None:
                    self._spend(len(data))
        await self._flowing.wait()
        sink.close()

    def _spend(self, sent_bytes: int) -> None:
        assert self._budget is not None
        self._budget -= sent_bytes
        if self._budget <= 0:
            self._budget = None
            self.cut()


class _Connection:
    """Both halves of a proxied connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._writers = [client]
        self._was_reset = False

    def add(self, broker: asyncio.StreamWriter) -> None:
        """Add the half towards the broker."""
        self._writers.append(broker)
        if self._was_reset:  # while it was being opened
            self.reset()

    def reset(self) -> None:
        """Reset both halves at once."""
        self._was_reset = True
        for writer in self._writers:
            if not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def close(self) -> None:
        """Close both halves."""
        for writer in self._writers:
            writer.close()


async def _read(source: asyncio.StreamReader) -> bytes:
    return await source.read(PIECE_BYTES)


def _read_kafka(advertised: bytes, own: bytes) -> Read:
    """Return a function that reads one whole Kafka response, and replaces the advertised address by the proxy's."""

    async def read(source: asyncio.StreamReader) -> bytes:
        length = await source.readexactly(LENGTH_BYTES)
        return length + (await source.readexactly(int.from_bytes(length))).replace(advertised, own)

    return read


def _address(port: int) -> bytes:
    """Encode a node's address as in Kafka's responses of all versions; its length is the same for every port."""
    return HOST.encode() + port.to_bytes(4, "big")
