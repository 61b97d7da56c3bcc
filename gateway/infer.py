"""The hot route: POST /v2/models/<endpoint>[/versions/<arm>]/infer, a bare ASGI callable.

A body goes into the queue as the bytes that came, and an answer goes out as the bytes that the processor wrote.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import orjson

from broker.channels import NAME
from broker.errors import Failed, InvalidRequest, MillraceError, NotFound, QueueFull, TooLarge, Unavailable
from broker.events import Ended
from broker.header import BY_WORD, Answer, Form, Reply, Request, Route, Status, pack_route, pack_ticket
from broker.ids import new_uid, now_us, uid_text
from broker.messages import BINARY, JSON, Outcome, Reason, Verdict
from broker.outbox import Outbox
from broker.tasks import Tasks
from gateway.asgi import REQUEST_ID, Receive, Scope, Send, send_answer, send_error
from gateway.body import number, read_body
from gateway.core import Core
from gateway.errors import BY_STATUS
from router.keys import key_of
from router.router import Leg, Plan, Router

Headers = dict[bytes, bytes]

log = logging.getLogger(__name__)

PATH = re.compile(rf"/v2/models/(?P<endpoint>{NAME.pattern})(?:/versions/(?P<arm>{NAME.pattern}))?/infer")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
WANTED = frozenset(
    (b"inference-header-content-length", b"content-encoding", b"content-length", b"traceparent", b"tracestate",
     b"timeout_ms", b"millrace-timeout-ms", b"millrace-key", b"upgrade")
)  # fmt: skip
LISTEN_AFTER_S = 1.0  # most answers are there before; to listen for a client that hangs up costs a task


class Infer:
    """Turns HTTP requests into queue messages and answers back into HTTP."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending = core.pending
        self._metrics = core.metrics
        self._loop = asyncio.get_running_loop()
        self._listening = Tasks()
        self._outbox: Outbox[Request] = Outbox(core.broker, self._settled, patience_s=core.settings.publish_patience_s)

    async def drain(self) -> None:
        """Wait until what was accepted is in its queue."""
        await self._listening.cancel()
        await self._outbox.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        uid = new_uid(now_us())
        try:
            answer = await self._infer(scope, receive, uid)
        except MillraceError as exc:
            await send_error(send, exc, uid)
            return
        except Exception:  # a bug of ours is an answer too, and not the end of the others
            log.exception("request %s broke the gateway", uid_text(uid))
            await send_error(send, Failed("the gateway failed at this request; its log says why"), uid)
            return
        await send_answer(send, BY_STATUS[answer.status], _headers(answer, uid), answer.body)

    async def _infer(self, scope: Scope, receive: Receive, uid: bytes) -> Answer:
        endpoint, arm = _target(scope["path"])
        headers = {name: value for name, value in scope["headers"] if name in WANTED}
        if b"upgrade" in headers:  # the server's parser drops the body of such a request
            raise InvalidRequest(
                "this gateway speaks HTTP/1.1 alone: send no Upgrade header (Java: HttpClient.Version.HTTP_1_1)"
            )
        router, mask = self._core.resolve(endpoint)
        body = await read_body(
            receive, announced=headers.get(b"content-length"), encoding=headers.get(b"content-encoding"),
            limit=self._core.settings.body_limit_bytes,
        )  # fmt: skip
        accepted_us = now_us()
        json_length = _json_length(headers, len(body))
        given = headers.get(b"millrace-key", b"").decode("utf-8", "replace")
        key = key_of(router.endpoint.key, given, body, json_length)
        allowed_s = _allowed_s(headers, router.endpoint.deadline)
        identity = key.encode() if router.sticky and key else uid
        plan = router.plan(identity, mask, pin=arm)
        request = Request(
            self._route(router, plan, plan.legs[0]), uid, accepted_us, accepted_us + int(allowed_s * 1e6),
            plan.legs[0].propensity, json_length, 0, key, "", _trace(headers), _extra(headers),
            body,
        )  # fmt: skip
        return await self._send_and_wait(request, allowed_s, receive)

    async def _send_and_wait(self, request: Request, allowed_s: float, receive: Receive) -> Answer:
        route = request.route
        try:
            future = self._pending.expect(request.uid, allowed_s)
        except QueueFull as exc:
            self._refused([request], exc)
            raise
        self._outbox.put(
            self._core.inputs(route.model, route.version), Form.BUNDLE, pack_route(route),
            pack_ticket(request, len(request.body)), request.body, request,
            limit=self._core.max_batch(route.model, route.version),
        )  # fmt: skip
        listen = self._loop.call_later(LISTEN_AFTER_S, self._listen, request.uid, receive)
        try:
            return await future
        finally:
            listen.cancel()
            self._pending.forget(request.uid)

    def _listen(self, uid: bytes, receive: Receive) -> None:
        self._listening.spawn(self._until_gone(uid, receive), "hang-up")

    async def _until_gone(self, uid: bytes, receive: Receive) -> None:
        """End the wait of a client that hangs up: it would hold a place among the pending ones until its deadline."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._pending.fail(uid, InvalidRequest("the client left before its answer"))

    def _route(self, router: Router, plan: Plan, leg: Leg) -> Route:
        return _cached_route(router.endpoint.endpoint, plan, leg, self._pending.queue)

    def _settled(self, requests: Sequence[Request], outcome: Outcome) -> None:
        """Hear what became of a publish. A safe one is waited for; an unknown one may have been taken, so it is too."""
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
            ended = Ended([request], [1], [0], status, str(error), published_us=now)
            self._core.rows.add(request.route.endpoint, None, ended, [], None, None)


@lru_cache(maxsize=4096)
def _target(path: str) -> tuple[str, str | None]:
    match = PATH.fullmatch(path)
    if match is None:
        raise NotFound(
            f"{path[:200]!r} is not /v2/models/<endpoint>[/versions/<arm>]/infer, with names of letters and digits"
        )
    return match["endpoint"], match["arm"]


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
    length = number(text)
    if length is None or length > size:
        raise InvalidRequest(
            f"Inference-Header-Content-Length: {_shown(text)} is not a number of bytes up to the body's {size}"
        )
    return length


def _allowed_s(headers: Headers, longest_s: float) -> float:
    text = headers.get(b"millrace-timeout-ms") or headers.get(b"timeout_ms")
    if text is None:
        return longest_s
    allowed_ms = number(text)
    if not allowed_ms:
        raise InvalidRequest(f"millrace-timeout-ms: {_shown(text)} is not a positive number of milliseconds")
    return min(longest_s, allowed_ms / 1000)


def _shown(text: bytes) -> str:
    return repr(text[:100].decode("latin-1"))


def _trace(headers: Headers) -> str:
    value = headers.get(b"traceparent", b"")
    return value.decode() if TRACEPARENT.fullmatch(value) else ""


def _extra(headers: Headers) -> bytes:
    state = headers.get(b"tracestate")
    return orjson.dumps({"tracestate": state.decode("latin-1")[:512]}) if state else b""


def _headers(answer: Answer, uid: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        *_arm_headers(answer.arm, answer.version, answer.status),
        (b"content-length", b"%d" % len(answer.body)),
        (REQUEST_ID, uid_text(uid).encode()),
    ]
    if answer.json_length is None:
        headers.append((b"content-type", JSON.encode()))
    else:
        headers.append((b"content-type", BINARY.encode()))
        headers.append((b"inference-header-content-length", b"%d" % answer.json_length))
    if answer.status is Status.OVERLOADED:
        headers.append((b"retry-after", b"1"))
    return headers


@lru_cache(maxsize=1024)
def _arm_headers(arm: str, version: int, status: Status) -> Iterable[tuple[bytes, bytes]]:
    return (
        (b"millrace-arm", arm.encode()),
        (b"millrace-version", b"%d" % version),
        (b"millrace-status", status.word.encode()),
    )
