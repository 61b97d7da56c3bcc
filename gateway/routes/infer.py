"""The infer route, POST /v2/models/<endpoint>[/versions/<arm>]/infer, as a bare ASGI callable: it is the hot path.

The bytes of a body go into the queue unchanged, and the bytes of an answer go out as the processor wrote them.
"""

from __future__ import annotations

import asyncio
import logging
import re
from functools import lru_cache
from typing import TypeVar

from broker.channels import NAME
from broker.errors import Expired, Failed, InvalidRequest, MillraceError, NotFound, QueueFull, TooLarge, Unavailable
from broker.protocol.header import Answer, Request
from broker.protocol.ids import new_uid, now_us, uid_text
from broker.support.tasks import Tasks
from gateway.core.core import Core
from gateway.core.sending import RequestSender
from gateway.results.store import claim_of
from gateway.results.stored_requests import StoredRequests
from gateway.routes.infer_headers import WANTED, allowed_s_of, extra_of, json_length_of, key_of_client, pin_of, trace_of
from gateway.routes.preferences import Preferences, preferences_of
from gateway.routes.ranked_requests import RankedSender, check_waits
from gateway.transport import reply
from gateway.transport.asgi import Receive, Scope, Send, send_answer, send_error
from gateway.transport.body import read_body
from gateway.transport.compress import compressed
from gateway.transport.door import RefusalReason
from router.drawing.legs import shadow_of
from router.drawing.planner import ClientRequest, plan_request

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATH = re.compile(rf"/v2/models/(?P<endpoint>{NAME.pattern})(?:/versions/(?P<arm>{NAME.pattern}))?/infer")
PLAIN = preferences_of(())
LISTEN_AFTER_S = 1.0  # watching for a disconnect costs a task, and most answers arrive before


class InferRoute:
    """Turns HTTP requests into queue messages and answers back into HTTP."""

    def __init__(self, core: Core, sending: RequestSender, stored: StoredRequests) -> None:
        self._core = core
        self._sending = sending
        self._stored = stored
        self._pending = core.pending
        self._ranked = RankedSender(core, sending)
        self._loop = asyncio.get_running_loop()
        self._disconnect_watches = Tasks()

    async def drain(self) -> None:
        """Wait until every accepted request is in its queue and every merge record is on its log."""
        await self._disconnect_watches.cancel()
        await self._sending.drain()
        await self._ranked.drain()
        await self._sending.drain_shadows()  # last, so that a slow shadow delays nothing else

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; any error becomes an answer too."""
        uid = new_uid(now_us())
        try:
            answer = await self._infer(scope, receive, uid)
        except MillraceError as exc:
            if isinstance(exc, TooLarge):
                self._core.door.note(RefusalReason.BODY_TOO_LARGE)
            await send_error(send, exc, uid)
            return
        except Exception:  # a bug must not end the other requests
            logger.exception("request %s broke the gateway", uid_text(uid))
            await send_error(send, Failed("the gateway failed at this request; its log has the reason"), uid)
            return
        headers, body = answer.headers, answer.body
        if len(body) >= self._core.settings.compress_above_bytes:
            headers, body = await compressed(headers, body, scope["headers"])
        await send_answer(send, answer.code, headers, body)

    async def _infer(self, scope: Scope, receive: Receive, uid: bytes) -> reply.HttpReply:
        endpoint, arm = _target(scope["path"])
        headers = {name: value for name, value in scope["headers"] if name in WANTED}
        router, mask = self._core.resolve(endpoint)
        body = await read_body(
            receive,
            announced=headers.get(b"content-length"),
            encoding=headers.get(b"content-encoding"),
            limit=self._core.settings.body_limit_bytes,
        )
        preferences = _preferences(scope) if b"prefer" in headers or b"idempotency-key" in headers else PLAIN
        arm = pin_of(headers, arm)
        check_waits(router, arm, preferences)
        allowed_s = allowed_s_of(headers, router.endpoint.deadline)
        client = ClientRequest(
            uid,
            now_us(),
            round(allowed_s * 1e6),
            body,
            json_length_of(headers, len(body)),
            key=key_of_client(headers),
            pin=arm,
            trace=trace_of(headers),
            extra=extra_of(headers),
            reply_to=self._stored.queue if preferences.stored else self._pending.answers.name,
        )
        request, plan = plan_request(router, mask, client, self._core.view.members.check_key)
        if plan.merged:
            answers = await self._wait(self._ranked.ask(router, request, plan, allowed_s), request, receive)
            return reply.answered(self._ranked.answer(router, request, answers), uid)
        shadow = shadow_of(request, plan)
        if preferences.stored:
            return await self._store(request, shadow, preferences, arm or "", allowed_s, receive)
        return reply.answered(await self._send_and_wait(request, shadow, allowed_s, receive), uid)

    async def _send_and_wait(
        self, request: Request, shadow: Request | None, allowed_s: float, receive: Receive
    ) -> Answer:
        try:
            future = self._pending.expect(request.uid, allowed_s, (request.route.model, request.route.version))
        except QueueFull as exc:
            self._sending.refuse([request] if shadow is None else [request, shadow], exc)
            raise
        self._sending.put(request, shadow)
        return await self._wait(future, request, receive)

    async def _wait(self, future: asyncio.Future[T], request: Request, receive: Receive) -> T:
        """Wait for the answer of one arm, or of several, until the client disconnects."""
        watch = self._loop.call_later(LISTEN_AFTER_S, self._watch_disconnect, request, receive)
        try:
            return await future
        finally:
            watch.cancel()
            self._pending.forget(request.uid)

    def _watch_disconnect(self, request: Request, receive: Receive) -> None:
        self._disconnect_watches.spawn(self._end_on_disconnect(request, receive), "client-disconnect")

    async def _end_on_disconnect(self, request: Request, receive: Receive) -> None:
        """End a wait when its client disconnects; it would occupy the gateway and a processor until its deadline."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._pending.fail(request.uid, InvalidRequest("the client disconnected before its answer"))
        self._core.cancels.add(request.uid, request.deadline_us)

    async def _store(
        self,
        request: Request,
        shadow: Request | None,
        preferences: Preferences,
        pin: str,
        allowed_s: float,
        receive: Receive,
    ) -> reply.HttpReply:
        """Serve a request whose answer is stored, so that it survives this gateway."""
        claim = (
            claim_of(
                preferences.key,
                tenant=request.route.tenant,
                endpoint=request.route.endpoint,
                pin=pin,
                json_length=request.json_length,
                body=request.body,
            )
            if preferences.key
            else None
        )
        longest_s = 0.0 if preferences.asynchronous else allowed_s
        wait_s = longest_s if preferences.wait_s is None else min(preferences.wait_s, allowed_s)
        client_disconnected = self._loop.create_future()
        watch = self._loop.call_later(
            LISTEN_AFTER_S,
            lambda: self._disconnect_watches.spawn(
                _set_on_disconnect(receive, client_disconnected), "client-disconnect"
            ),
        )
        try:
            state = await self._stored.send(request, claim, wait_s, client_disconnected, shadow)
        finally:
            watch.cancel()
            client_disconnected.cancel()
        replayed = [(b"idempotent-replayed", b"true")] if state.replayed else []
        if state.answer is not None:
            code, found, body = reply.answered(state.answer, state.uid)
            return reply.HttpReply(code, [*found, *replayed], body)
        if not preferences.asynchronous and self._stored.waits.stopping:
            raise Unavailable("this gateway stops; the request may still run: send it again with its key")
        if not preferences.asynchronous:
            raise Expired(f"no answer within the {allowed_s * 1000:.0f} ms allowed; it may still run")
        return reply.pending(state.uid, [(b"preference-applied", preferences.applied), *replayed])


async def _set_on_disconnect(receive: Receive, client_disconnected: asyncio.Future[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if not client_disconnected.done():
        client_disconnected.set_result(None)


def _preferences(scope: Scope) -> Preferences:
    prefer = [value for name, value in scope["headers"] if name == b"prefer"]
    keys = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    return preferences_of(prefer, keys)


@lru_cache(maxsize=4096)
def _target(path: str) -> tuple[str, str | None]:
    match = PATH.fullmatch(path)
    if match is None:
        raise NotFound(
            f"{path[:200]!r} is not /v2/models/<endpoint>[/versions/<arm>]/infer, with names of letters and digits"
        )
    return match["endpoint"], match["arm"]
