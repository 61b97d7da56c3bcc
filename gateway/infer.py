"""The hot route: POST /v2/models/<endpoint>[/versions/<arm>]/infer, a bare ASGI callable.

A body goes into the queue as the bytes that came, and an answer goes out as the bytes that the processor wrote.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from broker.answers import error_body
from broker.errors import InvalidRequest, MillraceError, QueueFull, TooLarge, Unavailable, Unreachable
from broker.events import Ended
from broker.header import BY_WORD, Answer, Form, Reply, Request, Route, Status, pack_route, pack_ticket
from broker.ids import new_uid, now_us, uid_text
from broker.messages import BINARY, JSON, Outcome, Reason, Verdict
from broker.outbox import Outbox
from gateway.core import Core
from gateway.errors import BY_STATUS, code_of, retry_after
from router.router import Leg, Plan, Router

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

PATH = re.compile(r"/v2/models/(?P<endpoint>[^/]+)(?:/versions/(?P<arm>[^/]+))?/infer")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
WANTED = frozenset(
    (b"inference-header-content-length", b"content-encoding", b"content-length", b"traceparent", b"tracestate",
     b"timeout_ms", b"millrace-timeout-ms", b"millrace-key")
)  # fmt: skip
KEY_CHARACTERS = 256


class Infer:
    """Turns HTTP requests into queue messages and answers back into HTTP."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending = core.pending
        self._metrics = core.metrics
        self._outbox: Outbox[Request] = Outbox(core.broker, self._settled, patience_s=core.settings.publish_patience_s)

    async def drain(self) -> None:
        """Wait until what was accepted is in its queue."""
        await self._outbox.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        uid = new_uid(now_us())
        try:
            answer = await self._infer(scope, receive, uid)
        except MillraceError as exc:
            await _send_error(send, exc, uid)
            return
        await _send(send, BY_STATUS[answer.status], _headers(answer, uid), answer.body)

    async def _infer(self, scope: Scope, receive: Receive, uid: bytes) -> Answer:
        endpoint, arm = _target(scope["path"])
        headers = {name: value for name, value in scope["headers"] if name in WANTED}
        router, mask = self._core.resolve(endpoint)
        body = await self._body(headers, receive)
        accepted_us = now_us()
        key = headers.get(b"millrace-key", b"").decode("utf-8", "replace")[:KEY_CHARACTERS]
        allowed_s = _allowed_s(headers, router.endpoint.deadline)
        identity = key.encode() if router.sticky and key else uid
        plan = router.plan(identity, mask, pin=arm)
        request = Request(
            self._route(router, plan, plan.legs[0]), uid, accepted_us, accepted_us + int(allowed_s * 1e6),
            plan.legs[0].propensity, _json_length(headers, len(body)), 0, key, "", _trace(headers), _extra(headers), body,
        )  # fmt: skip
        return await self._send_and_wait(request, allowed_s)

    async def _send_and_wait(self, request: Request, allowed_s: float) -> Answer:
        route = request.route
        try:
            future = self._pending.expect(request.uid, allowed_s)
        except QueueFull as exc:
            self._refused([request], exc)
            raise
        self._outbox.put(
            self._core.inputs(route.model, route.version), Form.BUNDLE, pack_route(route),
            pack_ticket(request, len(request.body)), request.body, request, limit=self._core.max_batch(route.model, route.version),
        )  # fmt: skip
        try:
            return await future
        except asyncio.CancelledError:  # the client is gone
            self._pending.forget(request.uid)
            raise

    def _route(self, router: Router, plan: Plan, leg: Leg) -> Route:
        return _cached_route(router.endpoint.endpoint, plan, leg, self._pending.queue)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._core.settings.body_limit_bytes
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(int(announced), limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await _rest(body, receive, limit)
        encoding = headers.get(b"content-encoding")
        return _decompress(body, encoding, limit) if encoding else body

    def _settled(self, requests: Sequence[Request], outcome: Outcome) -> None:
        """Hear what became of the publish. A safe one is waited for; nobody is told `not taken` about an unknown one."""
        if outcome.safe or outcome.verdict is Verdict.UNKNOWN:
            return
        error: MillraceError
        if outcome.reason is Reason.FULL:
            error = QueueFull("the queue of this model is full", retry_after_s=self._pending.drain_s())
        elif outcome.reason is Reason.NO_QUEUE:
            error = Unavailable("the queue of this model is not there yet: is its processor starting?")
        else:
            error = TooLarge("the request is larger than the broker takes")
        for request in requests:
            self._pending.fail(request.uid, error)
        self._refused(requests, error)

    def _refused(self, requests: Sequence[Request], error: MillraceError) -> None:
        """Write the rows of requests that end at the door."""
        status, now = BY_WORD[error.status], now_us()
        for request in requests:
            ended = Ended(request, 1, status, str(error), 0, 0, 0, now, 0)
            self._core.rows.add(request.route.endpoint, None, [ended], [], None, None)


@lru_cache(maxsize=4096)
def _target(path: str) -> tuple[str, str | None]:
    match = PATH.fullmatch(path)
    if match is None:
        raise InvalidRequest(f"{path} is not /v2/models/<endpoint>[/versions/<arm>]/infer")
    arm = match["arm"]
    return unquote(match["endpoint"]), unquote(arm) if arm else None


@lru_cache(maxsize=4096)
def _cached_route(endpoint: str, plan: Plan, leg: Leg, reply_to: str) -> Route:
    return Route(
        endpoint=endpoint, arm=leg.arm, model=leg.model, version=leg.version, snapshot=plan.snapshot, mask=plan.mask,
        policy=plan.policy, reply=Reply.GATEWAY, reply_to=reply_to, leg=leg.leg,
    )  # fmt: skip


def _json_length(headers: Headers, size: int) -> int | None:
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isdigit() or int(text) > size:
        raise InvalidRequest(
            f"Inference-Header-Content-Length: {text.decode('latin-1')!r} is not a number of bytes up to the body's {size}"
        )
    return int(text)


def _allowed_s(headers: Headers, longest_s: float) -> float:
    text = headers.get(b"millrace-timeout-ms") or headers.get(b"timeout_ms")
    if text is None:
        return longest_s
    if not text.isdigit() or int(text) == 0:
        raise InvalidRequest(f"millrace-timeout-ms: {text.decode('latin-1')!r} is not a positive number of milliseconds")
    return min(longest_s, int(text) / 1000)


def _trace(headers: Headers) -> str:
    value = headers.get(b"traceparent", b"")
    return value.decode() if TRACEPARENT.fullmatch(value) else ""


def _extra(headers: Headers) -> bytes:
    state = headers.get(b"tracestate")
    return orjson.dumps({"tracestate": state.decode("latin-1")[:512]}) if state else b""


async def _rest(first: bytes, receive: Receive, limit: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the client left in the middle of its body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(size, limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Undo gzip or deflate, never beyond `limit`: a small body can hold a very large one."""
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise InvalidRequest(f"Content-Encoding {encoding.decode('latin-1')!r} is not known: send gzip, deflate or none")
    for window in (47, -15):  # zlib or gzip by their header; raw deflate
        machine = zlib.decompressobj(window)
        try:
            data = machine.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(data) > limit:
            raise _too_large(len(data), limit)
        if machine.eof:
            return data
    raise InvalidRequest(f"the body is not {encoding.decode()} as its Content-Encoding says, or it is cut short")


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size} bytes or more; {limit} are allowed here")


def _headers(answer: Answer, uid: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        *_arm_headers(answer.arm, answer.version, answer.status),
        (b"content-length", b"%d" % len(answer.body)),
        (b"millrace-request-id", uid_text(uid).encode()),
    ]
    if answer.json_length is None:
        headers.append((b"content-type", JSON.encode()))
    else:
        headers.append((b"content-type", BINARY.encode()))
        headers.append((b"inference-header-content-length", b"%d" % answer.json_length))
    return headers


@lru_cache(maxsize=1024)
def _arm_headers(arm: str, version: int, status: Status) -> Iterable[tuple[bytes, bytes]]:
    return ((b"millrace-arm", arm.encode()), (b"millrace-version", b"%d" % version), (b"millrace-status", status.word.encode()))


async def _send_error(send: Send, error: MillraceError, uid: bytes) -> None:
    body = error_body(str(error))
    headers = [
        (b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body)),
        (b"millrace-request-id", uid_text(uid).encode()), (b"millrace-status", error.status.encode()),
    ]  # fmt: skip
    if (wait := retry_after(error)) is not None:
        headers.append((b"retry-after", wait.encode()))
    await _send(send, code_of(error), headers, body)


async def _send(send: Send, code: int, headers: Iterable[tuple[bytes, bytes]], body: bytes | memoryview) -> None:
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body)})
