"""Reads request bodies: complete, and within a limit before and after decompression."""

from __future__ import annotations

import asyncio

from broker.errors import InvalidRequest, TooLarge
from broker.support.compression import decompress
from gateway.transport.asgi import Receive

ON_LOOP_BYTES = 64 * 1024  # larger bodies are decompressed in a thread
DIGITS = 18  # of a number in a header; int() refuses far longer ones with an error of its own


async def read_body(receive: Receive, *, announced: bytes | None, encoding: bytes | None, limit: int) -> bytes:
    """Return the decompressed body. Raises TooLarge as early as possible, InvalidRequest if the client disconnects."""
    if announced and (size := number(announced)) is not None and size > limit:
        raise _too_large(size, limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _cut_short()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(body, receive, limit)
    if len(body) > limit:
        raise _too_large(len(body), limit)
    if not encoding:
        return body
    if len(body) <= ON_LOOP_BYTES:
        return decompress(body, encoding.decode("latin-1"), limit)
    return await asyncio.get_running_loop().run_in_executor(None, decompress, body, encoding.decode("latin-1"), limit)


def number(text: bytes) -> int | None:
    """The integer in a header, or None."""
    return int(text) if text.isdigit() and len(text) <= DIGITS else None


async def _rest(first: bytes, receive: Receive, limit: int) -> bytes:
    """Return a body that arrives in pieces; the connection limits the time."""
    parts, size, more = [first], len(first), True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _cut_short()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    return b"".join(parts)


def _cut_short() -> InvalidRequest:
    return InvalidRequest("the client disconnected in the middle of its body")


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size} bytes or more; {limit} are allowed here")
