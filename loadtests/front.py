"""A cheap HTTP/1.1 load client: keep-alive connections that send the same prepared request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast


@dataclass(slots=True)
class FrontLoad:
    """The result of a run: the latencies of answers with 200, and the number of others, by code (0: no answer)."""

    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    bad_codes: Counter[int] = field(default_factory=Counter)
    took_s: float = 0.0


class FrontConnection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bool] | None = None
        self._buffer = b""
        self.code = 0  # of the last answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for an answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(False)

    def data_received(self, data: bytes) -> None:
        """Find the end of the answer by its content-length."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else end])
        if len(self._buffer) >= end + 4 + length:
            self._buffer = self._buffer[end + 4 + length :]
            self.code = int(head[9:12])
            self._answer.set_result(self.code == 200)

    @property
    def is_closed(self) -> bool:
        """True if no more requests can be sent."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self) -> bool:
        """Send the request; returns True if the answer was 200."""
        self._answer = asyncio.get_running_loop().create_future()
        self.code = 0
        if self._transport is None or self.is_closed:
            return False
        self._transport.write(self._request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


def prepared(port: int, path: str, body: bytes, json_length: int | None) -> bytes:
    """The bytes of a POST request."""
    length = f"Inference-Header-Content-Length: {json_length}\r\n" if json_length is not None else ""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n{length}\r\n"
    return head.encode() + body


async def connect(port: int, request: bytes) -> FrontConnection:
    """Open one connection."""
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: FrontConnection(request), "127.0.0.1", port
    )
    return connection


async def closed_loop(
    port: int, path: str, body: bytes, json_length: int | None, *, connections: int, seconds: float
) -> FrontLoad:
    """Keep every connection busy for `seconds`."""
    request = prepared(port, path, body, json_length)
    load, began = FrontLoad(), time.perf_counter()

    async def worker() -> None:
        connection = await connect(port, request)
        while (start := time.perf_counter()) - began < seconds:
            if await connection.ask():
                load.latencies_s.append(time.perf_counter() - start)
            else:
                load.errors += 1
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*[worker() for _ in range(connections)])
    load.took_s = time.perf_counter() - began
    return load


async def open_loop(
    port: int, path: str, body: bytes, json_length: int | None, *, rate: float, seconds: float
) -> FrontLoad:
    """Send at a fixed rate, independent of the answers; latency is measured from the time when a request was due."""
    request = prepared(port, path, body, json_length)
    idle = deque([await connect(port, request) for _ in range(16)])
    load, began = FrontLoad(), time.perf_counter()

    async def one(due: float) -> None:
        while idle and idle[0].is_closed:
            idle.popleft()
        # in turn: the server closes a connection that is idle for long, perhaps just as a request is sent
        connection = idle.popleft() if idle else await connect(port, request)
        if await connection.ask():
            load.latencies_s.append(time.perf_counter() - due)
        else:
            load.errors += 1
            load.bad_codes[connection.code] += 1
        idle.append(connection)

    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(max(due, time.perf_counter() - 0.001))))
    await asyncio.gather(*tasks)
    load.took_s = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return load
