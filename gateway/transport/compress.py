"""Compresses large answers with gzip or deflate, if the client accepts that."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any

from gateway.transport.asgi import HeaderList, Send

LEVEL = 1
ON_LOOP_BYTES = 32 * 1024  # larger bodies are compressed in a thread
_WINDOWS = {b"gzip": 31, b"deflate": 15}
ACCEPT = b"accept-encoding"
VARY = (b"vary", ACCEPT)


async def compressed(
    headers: HeaderList, body: bytes | memoryview, asked: Iterable[tuple[bytes, bytes]]
) -> tuple[HeaderList, bytes | memoryview]:
    """Return the headers and the body of an answer in the coding that the request headers `asked` prefer, if any."""
    accepted = b",".join(value for name, value in asked if name == ACCEPT)
    coding = coding_of(accepted[:ON_LOOP_BYTES]) if accepted else None
    if coding is None or any(name == b"content-encoding" for name, _ in headers):
        return [*headers, VARY], body
    if len(body) <= ON_LOOP_BYTES:
        packed = _pack(body, coding)
    else:
        packed = await asyncio.get_running_loop().run_in_executor(None, _pack, body, coding)
    kept = [(name, value) for name, value in headers if name != b"content-length"]
    return [*kept, (b"content-length", b"%d" % len(packed)), (b"content-encoding", coding), VARY], packed


class CompressedSend:
    """An ASGI `send` that compresses complete answers of at least `least_bytes`, if the request accepts that."""

    def __init__(self, send: Send, asked: Iterable[tuple[bytes, bytes]], least_bytes: int) -> None:
        self._send = send
        self._asked = asked
        self._least_bytes = least_bytes
        self._start: MutableMapping[str, Any] | None = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send a message; the start of an answer is kept back until its body arrives."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            if not message.get("more_body") and len(message.get("body", b"")) >= self._least_bytes:
                headers, body = await compressed(list(start.get("headers", ())), message["body"], self._asked)
                start, message = {**start, "headers": headers}, {**message, "body": bytes(body)}
            await self._send(start)
        await self._send(message)


@lru_cache(maxsize=256)
def coding_of(accepted: bytes) -> bytes | None:
    """The coding that an Accept-Encoding header prefers (RFC 9110, section 12.5.3), or None if it accepts neither."""
    qualities: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        name, _, parameters = part.partition(b";")
        qualities[name.strip().removeprefix(b"x-")] = _quality(parameters)
    others = qualities.get(b"*", 0.0)
    best = max(_WINDOWS, key=lambda coding: qualities.get(coding, others))
    return best if qualities.get(best, others) > 0 else None


def _quality(parameters: bytes) -> float:
    name, _, value = parameters.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _pack(body: bytes | memoryview, coding: bytes) -> bytes:
    return zlib.compress(body, LEVEL, _WINDOWS[coding])
