"""GET /v2, /v2/health/live and /v2/health/ready. KServe's clients read the JSON, Triton's only the status code."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.core.core import Core

NAME = "millrace"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")


class HealthRoutes:
    """The gateway's own state."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def server(self, request: Request) -> JSONResponse:
        """GET /v2: name, version and extensions; `model_repository` is missing because it is only partly served."""
        del request
        return JSONResponse({"name": NAME, "version": product_version(), "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> JSONResponse:
        """GET /v2/health/live: the event loop runs."""
        del request
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """GET /v2/health/ready. Some clients read the key `live` here, so it is sent beside `ready`."""
        del request
        missing = await self._core.readiness.waiting_for()
        troubles = self._core.readiness.troubles()
        body = {"ready": not missing, "live": True, "waiting_for": missing, "troubles": troubles}
        return JSONResponse(
            body, status_code=503 if missing else 200, headers={"retry-after": "1"} if missing else None
        )


def product_version() -> str:
    """The installed version, or a placeholder in a checkout that is not installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0+checkout"
