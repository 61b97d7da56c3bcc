"""Reading a body from outside: never more than a limit, compressed or not, and never half of one."""

from __future__ import annotations

import asyncio

from broker.errors import InvalidRequest, TooLarge
from broker.support.compression import decompress
from gateway.transport.asgi import Receive

ON_LOOP_BYTES = 64 * 1024  # more is decompressed beside the loop
DIGITS = 18  # of a number in a header; Python refuses to read far longer ones, with an error of its own


async def read_body(receive: Receive, *, announced: bytes | None, encoding: bytes | None, limit: int) -> bytes:
    """Return a request's body, decompressed; raises TooLarge as soon as that is known, InvalidRequest if cut short."""
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
    """Return the whole number that a header holds, None if it holds something else."""
    return int(text) if text.isdigit() and len(text) <= DIGITS else None


async def _rest(first: bytes, receive: Receive, limit: int) -> bytes:
    """Return a body that comes in pieces; the connection ends the wait for one that is too slow."""
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
    return InvalidRequest("the client left in the middle of its body")


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size} bytes or more; {limit} are allowed here")
