"""The view of an installation: a fold of the `declared` and `status` logs, the same in every gateway and router."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from broker.delivery.clocks import CLOCKS
from broker.errors import Misconfigured, NotFound
from broker.messages import Record
from broker.records.declared_endpoints import DeclaredEndpoints
from broker.records.endpoint import Endpoint
from broker.records.routing import (
    LearnerCheckpoint,
    SnapshotRecord,
    experiment_of,
    read_claim,
    read_experiment_result,
    read_snapshot,
)
from broker.records.status import read_status
from router.drawing.router import Router
from router.policies.declared import read_policy
from router.policies.snapshot import WeightSnapshot
from router.state.implicit_endpoints import ImplicitEndpoints
from router.state.learned_state import LearnedState
from router.state.members import MemberTable
from router.state.model_versions import ModelVersions
from router.state.processes import Processes

logger = logging.getLogger(__name__)

FRESH_S = 0.25


class View:
    """Endpoints with their routers, model versions and processes. `key` is the assignment key of arm draws."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._declared = DeclaredEndpoints()
        self._routers: dict[str, Router] = {}
        self._resolved: dict[str, tuple[Router, int, float]] = {}
        self.versions = ModelVersions(clock)
        self.processes = Processes(clock)
        self.members = MemberTable(clock)
        self.learned = LearnedState(self._declared.by_name)
        self._implicit = ImplicitEndpoints(self._declared.by_name, self.versions, clock)

    def fold_declared(self, record: Record) -> None:
        """Fold a record of the `declared` log."""
        declared = self._declared.fold(record)
        if declared is not None:
            self._routers.pop(declared.endpoint, None)
            self._resolved.clear()
        elif (claim := read_claim(record)) is not None:
            for endpoint in self.learned.fold_claim(claim):
                self._follow(endpoint, self._follow_snapshot)
        elif (result := read_experiment_result(record)) is not None:
            self.learned.fold_result(result)
            self._follow(result.endpoint, self._follow_result)

    def fold_status(self, record: Record) -> None:
        """Fold a record of the `status` log."""
        announcement = read_status(record)
        if announcement is None:
            snapshot = read_snapshot(record)
            if snapshot is not None and self.learned.fold_snapshot(snapshot):
                self._follow(snapshot.endpoint, self._follow_snapshot)
            return
        at_s = self._clock() - CLOCKS.age_s(announcement.host, announcement.at_us)  # old records are read at the start
        self.processes.fold(announcement, at_s)
        self.members.fold(announcement)
        if announcement.part == "replica":
            self.versions.fold(announcement, at_s)

    def endpoints(self) -> list[str]:
        """Return the names that clients can address: declared endpoints, and models that none of them uses."""
        return sorted({*self._declared.by_name, *self._implicit.names()})

    def declarations(self) -> list[Endpoint]:
        """Return all declared endpoints."""
        return list(self._declared.by_name.values())

    def declaration(self, endpoint: str) -> Endpoint | None:
        """Return a declared endpoint; None if it is not declared."""
        return self._declared.by_name.get(endpoint)

    def resolve(self, endpoint: str) -> tuple[Router, int]:
        """Return the router and the mask of an endpoint, at most `FRESH_S` old; raises NotFound."""
        now_s = self._clock()
        found = self._resolved.get(endpoint)
        if found is None or found[2] < now_s:
            router = self.router(endpoint)
            found = self._resolved[endpoint] = (router, self.versions.mask(router.endpoint), now_s + FRESH_S)
        return found[0], found[1]

    def router(self, endpoint: str) -> Router:
        """Return the router of an endpoint; raises NotFound naming the known endpoints."""
        declaration, router = self.declaration(endpoint), self._routers.get(endpoint)
        if router is not None and (declaration is not None or self._implicit.is_current(endpoint)):
            return router
        if declaration is None:
            declaration = self._build_implicit(endpoint)
        try:
            router = Router(declaration, read_policy(declaration), self._key)
        except Misconfigured as exc:
            raise NotFound(f"endpoint {endpoint} is declared wrongly: {exc}") from exc
        self._routers[endpoint] = router
        self._follow_result(router)
        self._follow_snapshot(router)
        return router

    def snapshot_of(self, endpoint: str) -> SnapshotRecord | None:
        """Return the newest snapshot of an endpoint's current experiment; None if no learner has published one."""
        return self.learned.snapshot_of(endpoint)

    def without_snapshot(self) -> list[tuple[str, str]]:
        """Return the endpoints that learn, with their experiments, and have neither a snapshot nor a result."""
        return [
            (name, experiment_of(declaration))
            for name, declaration in self._declared.by_name.items()
            if self.learned.snapshot_of(name) is None and self.learned.result_of(name) is None and self._learns(name)
        ]

    def fold_checkpoint(self, endpoint: str, checkpoint: LearnerCheckpoint) -> None:
        """Use the weights and models of a checkpoint, unless a newer snapshot came meanwhile."""
        declaration = self.declaration(endpoint)
        if declaration is None or self.learned.snapshot_of(endpoint) is not None:
            return
        if checkpoint.experiment != experiment_of(declaration) or len(checkpoint.weights) != len(declaration.arms):
            return
        models = checkpoint.state.get("models") if isinstance(checkpoint.state, dict) else None
        try:
            self.router(endpoint).follow(WeightSnapshot(checkpoint.number, checkpoint.weights, models))
        except ValueError as exc:
            logger.warning("endpoint %s: the models of its checkpoint cannot be read: %s", endpoint, exc)

    def _build_implicit(self, endpoint: str) -> Endpoint:
        if endpoint not in self._implicit.names():
            known = ", ".join(self.endpoints()) or "none yet"
            raise NotFound(f"Request for unknown model: {endpoint!r} is not found; there is: {known}")  # Triton's words
        return self._implicit.build(endpoint)

    def _learns(self, endpoint: str) -> bool:
        try:
            return self.router(endpoint).policy.learns
        except NotFound:
            return False

    def _follow(self, endpoint: str, follow: Callable[[Router], None]) -> None:
        router = self._routers.get(endpoint)
        if router is not None:
            follow(router)

    def _follow_snapshot(self, router: Router) -> None:
        record = self.learned.snapshot_of(router.endpoint.endpoint)
        if record is None or len(record.weights) != len(router.endpoint.arms):
            return
        result = self.learned.result_of(record.endpoint)
        if result is not None and record.number <= result.number:  # it is older than the result
            return
        try:
            router.follow(WeightSnapshot(record.number, record.weights, record.models))
        except ValueError as exc:
            logger.warning("endpoint %s: snapshot %d cannot be read: %s", record.endpoint, record.number, exc)

    def _follow_result(self, router: Router) -> None:
        """Start from the result of an experiment, until the learner publishes a newer snapshot."""
        result = self.learned.result_of(router.endpoint.endpoint)
        if result is None:
            return
        if router.snapshot.number <= result.number and len(result.weights) == len(router.endpoint.arms):
            router.follow(WeightSnapshot(result.number, result.weights))
