"""Endpoints of models that no declared endpoint uses: each such model is an endpoint under its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.records.endpoint import Endpoint
from broker.records.status import SILENT_AFTER_S
from router.state.model_versions import ModelVersions

ARMS_LIMIT = 64  # of one endpoint


class ImplicitEndpoints:
    """Endpoints that follow from the announced model versions and the declared endpoints."""

    def __init__(self, declared: Mapping[str, Endpoint], versions: ModelVersions, clock: Callable[[], float]) -> None:
        self._declared = declared
        self._versions = versions
        self._clock = clock
        self._built: dict[str, tuple[list[int], int]] = {}  # the versions that each endpoint was built from

    def names(self) -> list[str]:
        """Return the models that no declared endpoint uses."""
        used = {target.model for endpoint in self._declared.values() for target in endpoint.arms.values()}
        return [model for model in self._versions.by_model if model not in used]

    def build(self, model: str) -> Endpoint:
        """Return the endpoint of a model.

        Its newest ready version (or the newest one) gets the traffic; the others are reachable by number.
        """
        versions, serving = self._built[model] = self._live_versions(model)
        arms = {f"v{version}": f"{model}@{version}" for version in versions}
        policy = {"split": {arm: float(arm == f"v{serving}") for arm in arms}} if len(arms) > 1 else {}
        return Endpoint(endpoint=model, arms=arms, policy=policy)  # type: ignore[arg-type]

    def is_current(self, model: str) -> bool:
        """Return True if the endpoint that was built last for a model is still the right one."""
        if model not in self._versions.by_model or model not in self.names():
            return False
        return self._built.get(model) == self._live_versions(model)

    def _live_versions(self, model: str) -> tuple[list[int], int]:
        """Return the versions that live replicas serve, load or fail to load, and the version that gets the traffic."""
        versions, oldest_s = self._versions.by_model[model], self._clock() - SILENT_AFTER_S
        ready = [version for version in versions if self._versions.is_ready(model, version)]
        newest = max(ready or versions)
        live = [
            one.version
            for one in versions.values()
            if any(state != "stopped" and at_s >= oldest_s for state, at_s in one.replicas.values())
        ]
        return sorted({*live, newest})[-ARMS_LIMIT:], newest
