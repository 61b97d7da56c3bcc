"""A small HTTP client for the demonstration: persistent connections with one request at a time on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.errors import Unavailable
from deploy.hosts import shown

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoResponse:
    """An HTTP response; header names are in lower case."""

    code: int
    headers: Mapping[str, str]
    body: bytes


class DemoConnection:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> DemoResponse:
        """Send one request and return the response; raises Unavailable."""
        try:
            return await self._post(path, body, headers)
        except (OSError, EOFError, TimeoutError) as exc:
            raise Unavailable(f"the gateway at {self._host} does not answer: {type(exc).__name__}") from exc

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> DemoResponse:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        async with asyncio.timeout(TIMEOUT_S):
            self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
            fields_by_name = {
                name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)
            }
            content = await self._reader.readexactly(int(fields_by_name.get("content-length", "0")))
        return DemoResponse(int(status.split(" ")[1]), fields_by_name, content)


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[DemoConnection]:
    """Open a connection and close it afterwards; raises Unavailable."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as exc:
        raise Unavailable(f"nothing listens at {shown(host, port)}") from exc
    try:
        yield DemoConnection(reader, writer, shown(host, port))
    finally:
        writer.close()
