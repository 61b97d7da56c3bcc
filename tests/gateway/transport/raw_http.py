"""HTTP as bytes: the head of a request, answers, and a gateway with small limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.transport.door import DoorLimits
from tests.gateway.infer_requests import BODY, URL
from tests.gateway.running_gateway import PATIENCE_S, Gateway, running_gateway

POST = b"POST %s HTTP/1.1\r\nhost: x\r\n" % URL.encode()


@asynccontextmanager
async def limited_gateway(folder: Path, **limits: float) -> AsyncIterator[Gateway]:
    """Run a gateway with other limits of its door."""
    async with running_gateway(folder, door=DoorLimits(**limits)) as gateway:  # type: ignore[arg-type]
        yield gateway


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: code, headers and body."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def refusals(gateway: Gateway, reason: str) -> float:
    """Return the number of connections and requests that were refused for a reason."""
    return gateway.registry.get_sample_value("millrace_gateway_refused_total", {"reason": reason}) or 0.0


async def serves_others(gateway: Gateway) -> bool:
    return (await gateway.client.post(URL, content=BODY)).status_code == 200
