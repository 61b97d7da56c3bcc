"""The half of the requests that is sent by HTTP with the Open Inference Protocol, and all feedback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson

from deploy.demo.http_client import DemoConnection, DemoResponse, connected
from deploy.demo.wire import JSON_LENGTH, DemoReply, DemoRequest

Address = tuple[str, int]


class HttpHalf:
    """An HTTP client that reuses idle connections, and opens another one if all are in use."""

    def __init__(self, gateway: Address, connections: AsyncExitStack) -> None:
        self._gateway = gateway
        self._connections = connections
        self._idle: list[DemoConnection] = []

    async def send(self, ask: DemoRequest) -> DemoReply:
        """Send one request and return its answer; raises Unavailable."""
        started = time.monotonic()
        response = await self._post(f"/v2/models/{ask.endpoint}/infer", ask.body, ask.headers)
        headers, latency_s = response.headers, time.monotonic() - started
        length = headers.get(JSON_LENGTH)
        return DemoReply(
            number=ask.number,
            way="HTTP",
            request_id=headers.get("millrace-request-id", ""),
            latency_s=latency_s,
            status=headers.get("millrace-status", str(response.code)),
            arm=headers.get("millrace-arm", ""),
            body=response.body,
            json_length=None if length is None else int(length),
        )

    async def send_feedback(self, endpoint: str, request_id: str, **fields: Any) -> bool:
        """Send feedback for a request; returns True if the gateway accepted it."""
        body = orjson.dumps({"request_id": request_id, **fields})
        path = f"/v2/models/{endpoint}/feedback"
        return (await self._post(path, body, {"Content-Type": "application/json"})).code == 202

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> DemoResponse:
        connection = self._idle.pop() if self._idle else await self._connect()
        response = await connection.post(path, body, headers)
        self._idle.append(connection)
        return response

    async def _connect(self) -> DemoConnection:
        return await self._connections.enter_async_context(connected(*self._gateway))


@asynccontextmanager
async def http_half(gateway: Address) -> AsyncIterator[HttpHalf]:
    """Yield a client and close its connections afterwards."""
    async with AsyncExitStack() as connections:
        yield HttpHalf(gateway, connections)
