"""Every route of the gateway: the infer route as bare ASGI, the others in Starlette."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from broker.errors import Failed, MillraceError, TooLarge
from broker.protocol.answers import error_body
from broker.protocol.ids import new_uid, now_us, uid_text
from gateway.core.core import Core
from gateway.results.stored_requests import StoredRequests
from gateway.routes.feedback import FeedbackRoute
from gateway.routes.health import HealthRoutes
from gateway.routes.infer import InferRoute
from gateway.routes.models import ModelRoutes
from gateway.routes.openapi import openapi
from gateway.routes.page import page
from gateway.routes.stored_requests import StoredRequestRoutes
from gateway.transport.asgi import REQUEST_ID, App, Receive, Scope, Send, error_headers
from gateway.transport.compress import CompressedSend
from gateway.transport.door import RefusalReason
from gateway.transport.errors import code_of

MODEL = "/v2/models/{endpoint}"
REQUEST = "/v2/requests/{uid}"
VERSION = MODEL + "/versions/{version}"

Handler = Callable[[Request], Awaitable[Response]]


class GatewayApp:
    """The ASGI app: POST …/infer goes straight to the infer route, every other request to Starlette."""

    def __init__(self, infer: InferRoute, app: App, compress_above_bytes: int) -> None:
        self._infer = infer
        self._app = app
        self._compress_above_bytes = compress_above_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch a request; every answer carries a request id."""
        if scope["type"] != "http":
            return
        if scope["method"] == "POST" and scope["path"].endswith("/infer"):
            await self._infer(scope, receive, send)
            return
        compressed_send = CompressedSend(send, scope["headers"], self._compress_above_bytes)
        await self._app(
            scope, receive, partial(_with_request_id, compressed_send, uid_text(new_uid(now_us())).encode())
        )


def front(core: Core, infer: InferRoute, stored: StoredRequests) -> GatewayApp:
    """The whole gateway as one ASGI app."""
    return GatewayApp(infer, application(core, stored), core.settings.compress_above_bytes)


def application(core: Core, stored: StoredRequests) -> Starlette:
    """The routes other than the infer route."""
    handlers: dict[Any, Any] = {HTTPException: _http_error, MillraceError: _our_error, Exception: _bug}
    app = Starlette(routes=routes(core, stored), exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.door = core.door
    return app


def routes(core: Core, stored: StoredRequests) -> list[Route]:
    """Every route; the infer routes are listed only so that other methods get a 405."""
    health, models, feedback, requests = (
        HealthRoutes(core),
        ModelRoutes(core),
        FeedbackRoute(core),
        StoredRequestRoutes(stored),
    )
    return [
        _get("/v2", health.server),
        _get("/v2/health/live", health.live),
        _get("/v2/health/ready", health.ready),
        _get("/v2/models", models.names),
        _get("/v2/models/stats", models.statistics),
        *(_get(base, models.metadata) for base in (MODEL, VERSION)),
        *(_get(base + "/ready", models.ready) for base in (MODEL, VERSION)),
        *(_get(base + "/config", models.config) for base in (MODEL, VERSION)),
        *(_get(base + "/stats", models.statistics) for base in (MODEL, VERSION)),
        *(_post(base + "/infer", _unreached) for base in (MODEL, VERSION)),
        _post(MODEL + "/feedback", feedback.take),
        Route(REQUEST, requests.serve, methods=["GET", "DELETE"]),
        _post("/v2/repository/index", models.index),
        _post("/v2/repository/models/{model}/load", models.load_or_unload),
        _post("/v2/repository/models/{model}/unload", models.load_or_unload),
        _get("/openapi.json", _openapi),
        _get("/docs", _docs),
    ]


def _get(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["GET"])


def _post(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["POST"])


async def _with_request_id(send: Send, uid: bytes, message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.response.start":
        headers = message.get("headers", ())
        if not any(name == REQUEST_ID for name, _ in headers):
            message = {**message, "headers": [*headers, (REQUEST_ID, uid)]}
    await send(message)


async def _unreached(request: Request) -> Response:
    raise HTTPException(404, f"{request.url.path} is served by the infer route")


async def _openapi(request: Request) -> Response:
    del request
    return JSONResponse(openapi())


async def _docs(request: Request) -> Response:
    return HTMLResponse(page(f"http://{request.headers.get('host', 'localhost:8000')}"))


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": _error_text(request, error)}, status_code=error.status_code, headers=error.headers)


def _error_text(request: Request, error: HTTPException) -> str:
    path = request.url.path[:200]
    if error.status_code == 404:
        return f"{path} is no route of this gateway; /docs lists them"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not for {path}: it takes {allowed}"
    return str(error.detail)


async def _our_error(request: Request, error: MillraceError) -> Response:
    if isinstance(error, TooLarge):
        request.app.state.door.note(RefusalReason.BODY_TOO_LARGE)
    body = error_body(str(error))
    headers = {name.decode(): value.decode() for name, value in error_headers(error, len(body))}
    return Response(body, status_code=code_of(error), headers=headers)


async def _bug(request: Request, error: Exception) -> Response:
    """Answer a request that hit a bug; the server logs the exception."""
    del error
    return await _our_error(request, Failed("the gateway failed at this request; its log has the reason"))
