"""ASGI's types, and JSON answers with the request id, for the bare routes and the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

from broker.errors import MillraceError, QueueFull
from broker.messages import JSON
from broker.protocol.answers import error_body
from broker.protocol.ids import new_uid, now_us, uid_text
from gateway.transport.errors import code_of, retry_after

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

REQUEST_ID = b"millrace-request-id"
RETRY_AFTER_MS = b"millrace-retry-after-ms"  # Retry-After, without rounding up to seconds


async def send_answer(send: Send, code: int, headers: Iterable[tuple[bytes, bytes]], body: bytes | memoryview) -> None:
    """Send a complete answer."""
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body)})


async def send_error(send: Send, error: MillraceError, uid: bytes) -> None:
    """Send an error in the common form, with the request id."""
    body = error_body(str(error))
    await send_answer(
        send, code_of(error), [*error_headers(error, len(body)), (REQUEST_ID, uid_text(uid).encode())], body
    )


def raw_error(error: MillraceError, uid: bytes) -> bytes:
    """Return a complete HTTP answer with an error, for a connection that ends with it."""
    body, code = error_body(str(error)), code_of(error)
    headers = [*error_headers(error, len(body)), (REQUEST_ID, uid_text(uid).encode()), (b"connection", b"close")]
    lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}".encode(), *(b"%b: %b" % header for header in headers)]
    return b"\r\n".join((*lines, b"", body))


class ErrorApp:
    """An app that answers one request with an error."""

    def __init__(self, error: MillraceError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        del scope, receive
        await send_error(send, self._error, new_uid(now_us()))


def error_headers(error: MillraceError, size: int) -> HeaderList:
    """Return the headers of an error's answer, without the request id."""
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", b"%d" % size),
        (b"millrace-status", error.status.encode()),
    ]
    if (wait := retry_after(error)) is not None:
        headers.append((b"retry-after", wait.encode()))
    if isinstance(error, QueueFull) and error.retry_after_s is not None:
        headers.append((RETRY_AFTER_MS, b"%d" % (1000 * error.retry_after_s)))
    return headers
