"""GET and DELETE /v2/requests/<uid>: how a stored request stands, its answer, and its cancel."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from broker.errors import NotFound
from broker.protocol.ids import uid_of
from gateway.results.asynchronous import StoredRequests
from gateway.routes.preferences import wishes_of
from gateway.transport import reply


class StoredRequestRoutes:
    """Serves what the results store knows."""

    def __init__(self, asynchronous: StoredRequests) -> None:
        self._asynchronous = asynchronous

    async def serve(self, request: Request) -> Response:
        """GET and DELETE."""
        return await (self.cancel if request.method == "DELETE" else self.fetch)(request)

    async def fetch(self, request: Request) -> Response:
        """Answer as the infer route would have, or 202 while there is no answer; `Prefer: wait=N` waits for it."""
        uid = _uid(request)
        wishes = wishes_of([value.encode("latin-1") for value in request.headers.getlist("prefer")])
        standing = await self._asynchronous.fetch(uid, wishes.wait_s or 0.0)
        if standing.answer is None:
            return _response(reply.pending(uid))
        return _response(reply.answered(standing.answer, uid))

    async def cancel(self, request: Request) -> Response:
        """Answer 204 when nobody will get an answer any more."""
        await self._asynchronous.cancel(_uid(request))
        return Response(status_code=204)


def _uid(request: Request) -> bytes:
    text = request.path_params["uid"]
    try:
        return uid_of(text)
    except ValueError as exc:
        raise NotFound(f"{text[:100]!r} is no request id") from exc


def _response(said: reply.HttpReply) -> Response:
    response = Response(bytes(said.body), status_code=said.code)
    response.raw_headers = list(said.headers)
    return response
