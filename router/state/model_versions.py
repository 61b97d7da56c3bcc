"""The model versions that replicas announce, and which of them are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from broker.errors import Unavailable
from broker.records.endpoint import Endpoint, Target
from broker.records.status import SILENT_AFTER_S, Announcement

DEFAULT_BATCH = 32
GIVEN_UP_AFTER = 3  # processes of a version that came and went before any was ready


@dataclass(slots=True)
class ServedVersion:
    """One model version. `replicas` are by instance: the announced state, and when (monotonic seconds)."""

    model: str
    version: int
    replicas: dict[str, tuple[str, float]] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class ModelVersions:
    """Model versions by model and number: a fold of the announcements of replicas."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.by_model: dict[str, dict[int, ServedVersion]] = {}

    def fold(self, announcement: Announcement, at_s: float) -> None:
        """Fold the announcement of a replica, which was sent at `at_s` (monotonic seconds)."""
        served = self.by_model.setdefault(announcement.model, {}).setdefault(
            announcement.version, ServedVersion(announcement.model, announcement.version)
        )
        served.replicas[announcement.instance] = (announcement.state, at_s)
        if announcement.full:
            served.full = announcement.full
        if announcement.error or announcement.state == "ready":  # while it starts again the last error still holds
            served.error = announcement.error
        oldest_s = self._clock() - 10 * SILENT_AFTER_S
        for instance in [name for name, (_, at_s) in served.replicas.items() if at_s < oldest_s]:
            del served.replicas[instance]

    def find(self, model: str, version: int) -> ServedVersion | None:
        """Return a model version; None if it was never announced."""
        return self.by_model.get(model, {}).get(version)

    def of_endpoint(self, endpoint: Endpoint) -> Iterable[tuple[str, ServedVersion]]:
        """Yield (arm, model version) for every arm whose version was announced."""
        for arm, target in endpoint.arms.items():
            found = self._of(target)
            if found is not None:
                yield arm, found

    def is_ready(self, model: str, version: int) -> bool:
        """Return True if a live replica of a model version is ready."""
        served = self.find(model, version)
        if served is None:
            return False
        oldest_s = self._clock() - SILENT_AFTER_S
        return any(state == "ready" and at_s >= oldest_s for state, at_s in served.replicas.values())

    def is_settled(self, model: str, version: int) -> bool:
        """Return True if a model version is ready, has failed, or its processes die while they load it."""
        served = self.find(model, version)
        if served is None:
            return False
        return self.is_ready(model, version) or bool(served.error) or len(served.replicas) >= GIVEN_UP_AFTER

    def is_known(self, endpoint: Endpoint) -> bool:
        """Return True if any arm's version was announced: its queue exists, and requests can wait in it."""
        return any(self._of(target) is not None for target in endpoint.arms.values())

    def mask(self, endpoint: Endpoint) -> int:
        """Return a bit for each arm that has a ready replica."""
        bits = 0
        for arm, target in enumerate(endpoint.arms.values()):
            if self.is_ready(target.model, target.version):
                bits |= 1 << arm
        return bits

    def max_batch(self, model: str, version: int) -> int:
        """Return the largest number of requests in one bundle for a model version."""
        served = self.find(model, version)
        return max(1, served.full.get("max_batch_size", DEFAULT_BATCH)) if served else DEFAULT_BATCH

    def check_servable(self, endpoint: Endpoint, mask: int) -> None:
        """Raise Unavailable, with the errors, if no arm is ready and all announced versions have failed."""
        if mask:
            return
        served = [version for _, version in self.of_endpoint(endpoint)]
        if served and all(version.error for version in served):
            reasons = "; ".join(f"{version.model}@{version.version}: {version.error}" for version in served)
            raise Unavailable(f"endpoint {endpoint.endpoint} has nothing that can serve it now; {reasons}")

    def _of(self, target: Target) -> ServedVersion | None:
        return self.find(target.model, target.version)
