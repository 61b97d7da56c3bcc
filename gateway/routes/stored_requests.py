"""GET and DELETE /v2/requests/<uid>: the state and the answer of a stored request, and its cancellation."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from broker.errors import NotFound
from broker.protocol.ids import uid_of
from gateway.results.stored_requests import StoredRequests
from gateway.routes.preferences import preferences_of
from gateway.transport import reply


class StoredRequestRoutes:
    """Serves stored requests."""

    def __init__(self, stored: StoredRequests) -> None:
        self._stored = stored

    async def serve(self, request: Request) -> Response:
        """Serve GET and DELETE."""
        return await (self.cancel if request.method == "DELETE" else self.fetch)(request)

    async def fetch(self, request: Request) -> Response:
        """Answer as the infer route would have, or 202 while the request is pending; `Prefer: wait=N` waits."""
        uid = _uid(request)
        preferences = preferences_of([value.encode("latin-1") for value in request.headers.getlist("prefer")])
        state = await self._stored.fetch(uid, preferences.wait_s or 0.0)
        if state.answer is None:
            return _response(reply.pending(uid))
        return _response(reply.answered(state.answer, uid))

    async def cancel(self, request: Request) -> Response:
        """Answer 204 once the request is cancelled."""
        await self._stored.cancel(_uid(request))
        return Response(status_code=204)


def _uid(request: Request) -> bytes:
    text = request.path_params["uid"]
    try:
        return uid_of(text)
    except ValueError as exc:
        raise NotFound(f"{text[:100]!r} is not a request id") from exc


def _response(answer: reply.HttpReply) -> Response:
    response = Response(bytes(answer.body), status_code=answer.code)
    response.raw_headers = list(answer.headers)
    return response
