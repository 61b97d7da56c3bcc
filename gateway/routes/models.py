"""Models as clients see them: endpoints, whose versions are their arms. The answers come from announcements."""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse

from broker.errors import InvalidRequest, Unavailable
from broker.records.endpoint import Endpoint, Target
from broker.records.status import SILENT_AFTER_S
from gateway.core.core import Core
from gateway.transport.body import read_body
from router.state.model_versions import ServedVersion

INDEX_LIMIT_BYTES = 64 * 1024
BEFORE_READY = frozenset({"starting", "loading"})


class ModelRoutes:
    """The routes below /v2/models and /v2/repository."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._view = core.view

    async def names(self, request: Request) -> JSONResponse:
        """GET /v2/models."""
        del request
        return JSONResponse({"models": self._view.endpoints()})

    async def metadata(self, request: Request) -> JSONResponse:
        """GET …/models/<endpoint>[/versions/<arm>]."""
        endpoint, arm = self._target(request)
        described = self._full(endpoint, arm).get("metadata", {})
        numbers = sorted({target.version for target in endpoint.arms.values()})
        return JSONResponse(
            {
                **described,
                "name": endpoint.endpoint,
                "versions": [str(number) for number in numbers],
                "arms": {name: {"model": it.model, "version": str(it.version)} for name, it in endpoint.arms.items()},
            }
        )

    async def config(self, request: Request) -> JSONResponse:
        """GET …/models/<endpoint>[/versions/<arm>]/config, as Triton writes it."""
        endpoint, arm = self._target(request)
        return JSONResponse({**self._full(endpoint, arm).get("config", {}), "name": endpoint.endpoint})

    async def statistics(self, request: Request) -> JSONResponse:
        """GET …/models[/<endpoint>[/versions/<arm>]]/stats: one entry for each model version."""
        if "endpoint" in request.path_params:
            selected = [self._target(request)]
        else:
            selected = [(self._view.router(name).endpoint, None) for name in self._view.endpoints()]
        found = []
        for endpoint, arm in selected:
            targets = {target: None for name, target in endpoint.arms.items() if arm in (None, name)}
            found += [self._core.computed.of(endpoint.endpoint, target) for target in targets]
        return JSONResponse({"model_stats": found})

    async def ready(self, request: Request) -> JSONResponse:
        """GET …/models/<endpoint>[/versions/<arm>]/ready."""
        endpoint, arm = self._target(request)
        ready = self._view.versions.mask(endpoint) != 0 if arm is None else self._is_ready(endpoint.arms[arm])
        body: dict[str, Any] = {"name": endpoint.endpoint, "ready": ready}
        if not ready:
            body["error"] = f"endpoint {endpoint.endpoint}: no replica of {_targets(endpoint, arm)} is ready"
        return JSONResponse(body, status_code=200 if ready else 503, headers=None if ready else {"retry-after": "1"})

    async def index(self, request: Request) -> JSONResponse:
        """POST /v2/repository/index: one entry per arm; the body `{"ready": true}` selects the ready ones."""
        only_ready = await _only_ready(request)
        entries = []
        for name in self._view.endpoints():
            endpoint = self._view.router(name).endpoint
            entries += [self._entry(endpoint, arm, target) for arm, target in endpoint.arms.items()]
        return JSONResponse([entry for entry in entries if entry["state"] == "READY" or not only_ready])

    async def load_or_unload(self, request: Request) -> JSONResponse:
        """POST /v2/repository/models/<model>/load|unload: not served."""
        del request
        text = "this gateway loads and unloads nothing: a model is loaded when its folder is in the model repository"
        return JSONResponse({"error": text}, status_code=501)

    def _target(self, request: Request) -> tuple[Endpoint, str | None]:
        """Return the endpoint of a path, and its arm (by name or version number) or None. Raises NotFound."""
        router = self._core.router(request.path_params["endpoint"])
        version = request.path_params.get("version")
        if version is None:
            return router.endpoint, None
        return router.endpoint, router.plan(b"", 0, pin=version).legs[0].arm

    def _full(self, endpoint: Endpoint, arm: str | None) -> dict[str, Any]:
        """Return the description of a model that its replica announced: of `arm`, or of the first arm that has one."""
        for name, served in self._view.versions.of_endpoint(endpoint):
            if arm in (None, name) and served.full:
                return served.full
        targets = _targets(endpoint, arm)
        raise Unavailable(f"endpoint {endpoint.endpoint}: no replica of {targets} has described the model yet")

    def _entry(self, endpoint: Endpoint, arm: str, target: Target) -> dict[str, str]:
        """The entry of an arm; `version` is the number that answers and metadata have."""
        served = self._view.versions.by_model.get(target.model, {}).get(target.version)
        state, reason = self._state(target, served)
        version = str(target.version)
        return {"name": endpoint.endpoint, "version": version, "arm": arm, "state": state, "reason": reason}

    def _state(self, target: Target, served: ServedVersion | None) -> tuple[str, str]:
        """One of Triton's states, and its reason."""
        if self._is_ready(target):
            return "READY", ""
        if served is None:
            return "UNAVAILABLE", "no replica has come up yet"
        oldest = time.monotonic() - SILENT_AFTER_S
        states = {state for state, at in served.replicas.values() if at >= oldest}
        if states & BEFORE_READY:
            return "LOADING", ""
        if "draining" in states:
            return "UNLOADING", ""
        return "UNAVAILABLE", served.error or "no replica runs any more"

    def _is_ready(self, target: Target) -> bool:
        return self._view.versions.is_ready(target.model, target.version)


def _targets(endpoint: Endpoint, arm: str | None) -> str:
    return ", ".join(f"{it.model}@{it.version}" for name, it in endpoint.arms.items() if arm in (None, name))


async def _only_ready(request: Request) -> bool:
    announced = request.headers.get("content-length", "").encode("latin-1")
    body = await read_body(request.receive, announced=announced, encoding=None, limit=INDEX_LIMIT_BYTES)
    if not body.strip():
        return False
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"repository index: the body is not JSON ({exc})") from exc
    if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
        raise InvalidRequest('repository index: a JSON object is expected, such as {"ready": true}')
    return bool(asked.get("ready", False))
