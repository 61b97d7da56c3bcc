"""The view of what is served: a fold of the `declared` and `status` logs, the same in every gateway and router."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.delivery.clocks import CLOCKS
from broker.errors import Misconfigured, NotFound, Unavailable
from broker.messages import Record
from broker.records.declared import read_declared
from broker.records.endpoint import Endpoint, Target
from broker.records.routing import (
    ExperimentResult,
    LearnerCheckpoint,
    SnapshotRecord,
    experiment_of,
    read_claim,
    read_experiment_result,
    read_snapshot,
)
from broker.records.status import SILENT_AFTER_S, Announcement, read_status
from router.drawing.router import Router
from router.policies.drawn import read_policy
from router.policies.interleaving import Interleaving
from router.policies.learned import LearnedLinearPolicy, LearnedPolicy
from router.policies.snapshot import WeightSnapshot
from router.state.members import MemberTable

log = logging.getLogger(__name__)

DEFAULT_BATCH = 32
ARMS_LIMIT = 64  # of one endpoint
FRESH_S = 0.25
FORGET_AFTER_S = 600.0
BEHIND_LIMIT = 3
GIVEN_UP_AFTER = 3  # processes of a version that came and went before any was ready


@dataclass(slots=True)
class ServedVersion:
    """One model version: who serves it, and what it says of itself."""

    model: str
    version: int
    heard: dict[str, tuple[str, float]] = field(default_factory=dict)  # instance -> (state, monotonic seconds)
    full: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class View:
    """Endpoints and model versions as the logs tell them. `key` is the secret that decisions are drawn with."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._declared: dict[str, Endpoint] = {}
        self._implied: dict[str, tuple[list[int], int]] = {}  # of models that none claims: see `_served_now`
        self._routers: dict[str, Router] = {}
        self._resolved: dict[str, tuple[Router, int, float]] = {}
        self.versions: dict[str, dict[int, ServedVersion]] = {}
        self.parts: dict[str, tuple[Announcement, float]] = {}
        self.catalogs: dict[str, Mapping[str, Any]] = {}
        """What each catalog says of its repository: `models`, with the numbers of their versions, and `problems`."""
        self.members = MemberTable(clock)
        self._pruned = clock()
        self.term = -1  # of the newest claim: no snapshot of another one is taken
        self._said: dict[str, SnapshotRecord] = {}
        self._early: dict[str, SnapshotRecord] = {}  # of a term whose claim has not been read yet
        self._behind: dict[str, int] = {}  # by endpoint: snapshots in succession that seem older
        self._verdicts: dict[str, ExperimentResult] = {}

    def fold_declared(self, record: Record) -> None:
        """Take in a record of the `declared` log."""
        declared = read_declared(record)
        if declared is None:
            self._fold_learner(record)
            return
        self._routers.pop(declared.endpoint, None)
        self._resolved.clear()
        if declared.declaration is None:
            self._declared.pop(declared.endpoint, None)
        else:
            self._declared[declared.endpoint] = declared.declaration

    def fold_status(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is None:
            snapshot = read_snapshot(record)
            if snapshot is not None:
                self._fold_snapshot(snapshot)
            return
        now = self._clock()
        at = now - CLOCKS.age_s(said.host, said.at_us)  # what is read at the start was said some time ago
        self.parts[said.instance] = (said, at)
        self.members.hear(said)
        if now - self._pruned > FORGET_AFTER_S:
            self._pruned = now
            self.parts = {instance: part for instance, part in self.parts.items() if now - part[1] < FORGET_AFTER_S}
        if said.part == "replica":
            self._hear(said, at)
        elif said.part == "catalog":
            self._hear_catalog(said)

    def heard_now(self) -> list[tuple[Announcement, float]]:
        """Return what processes said last that are not silent and have not stopped, and when."""
        oldest = self._clock() - SILENT_AFTER_S
        return [
            (said, at) for said, at in self.parts.values() if at >= oldest and said.state not in ("stopped", "failed")
        ]

    def endpoints(self) -> list[str]:
        """Return the names that clients can address: declared endpoints, and models that none of them claims."""
        return sorted({*self._declared, *self._unclaimed()})

    def declarations(self) -> list[Endpoint]:
        """Return all that is declared."""
        return list(self._declared.values())

    def declaration(self, endpoint: str) -> Endpoint | None:
        """Return what is declared for an endpoint, if it is."""
        return self._declared.get(endpoint)

    def resolve(self, endpoint: str) -> tuple[Router, int]:
        """Return the router and the mask of an endpoint, at most `FRESH_S` old; raises NotFound."""
        now = self._clock()
        found = self._resolved.get(endpoint)
        if found is None or found[2] < now:
            router = self.router(endpoint)
            found = self._resolved[endpoint] = (router, self.mask(router.endpoint), now + FRESH_S)
        return found[0], found[1]

    def router(self, endpoint: str) -> Router:
        """Return the router of an endpoint; raises NotFound naming what there is."""
        router = self._routers.get(endpoint)
        if router is not None and (endpoint in self._declared or self._is_current(router)):
            return router
        declaration = self._declared.get(endpoint) or self._implicit(endpoint)
        try:
            router = Router(declaration, read_policy(declaration), self._key)
        except Misconfigured as exc:
            raise NotFound(f"endpoint {endpoint} is declared wrongly: {exc}") from exc
        self._routers[endpoint] = router
        self._follow_verdict(router)
        self._follow_snapshot(router)
        return router

    def snapshot_of(self, endpoint: str) -> SnapshotRecord | None:
        """Return what the learner said last about an endpoint, as it is declared now."""
        said, declaration = self._said.get(endpoint), self._declared.get(endpoint)
        return said if said and declaration and said.experiment == experiment_of(declaration) else None

    def mask(self, endpoint: Endpoint) -> int:
        """Return a bit for each arm that has a ready replica."""
        bits = 0
        for arm, target in enumerate(endpoint.arms.values()):
            if self.is_ready(target.model, target.version):
                bits |= 1 << arm
        return bits

    def is_known(self, endpoint: Endpoint) -> bool:
        """Tell whether any arm's model version was ever announced, so that its queue is there to wait in."""
        return any(self._find(target) is not None for target in endpoint.arms.values())

    def is_ready(self, model: str, version: int) -> bool:
        """Tell whether somebody serves a model version now."""
        served = self.versions.get(model, {}).get(version)
        if served is None:
            return False
        oldest = self._clock() - SILENT_AFTER_S
        return any(state == "ready" and at >= oldest for state, at in served.heard.values())

    def is_settled(self, model: str, version: int) -> bool:
        """Tell whether a model version is served, or is known not to be: it failed, or its processes die at loading."""
        served = self.versions.get(model, {}).get(version)
        if served is None:
            return False
        return self.is_ready(model, version) or bool(served.error) or len(served.heard) >= GIVEN_UP_AFTER

    def check_servable(self, endpoint: Endpoint, mask: int) -> None:
        """Raise Unavailable, with what they say, if no arm is ready and all that are known have failed."""
        reasons = [f"{served.model}@{served.version}: {served.error}" for _, served in self.served(endpoint)]
        if not mask and reasons and all(served.error for _, served in self.served(endpoint)):
            raise Unavailable(f"endpoint {endpoint.endpoint} has nothing that can serve it now; " + "; ".join(reasons))

    def served(self, endpoint: Endpoint) -> Iterable[tuple[str, ServedVersion]]:
        """Return (arm, model version) for every arm that was ever announced."""
        for arm, target in endpoint.arms.items():
            found = self._find(target)
            if found is not None:
                yield arm, found

    def max_batch(self, model: str, version: int) -> int:
        """Return the most requests that one bundle for a model version may hold."""
        served = self.versions.get(model, {}).get(version)
        return max(1, served.full.get("max_batch_size", DEFAULT_BATCH)) if served else DEFAULT_BATCH

    def unspoken(self) -> list[tuple[str, str]]:
        """Return the endpoints whose policy learns, with their experiments, of which no learner has said anything."""
        silent = [name for name in self._declared if self.snapshot_of(name) is None]
        return [
            (name, experiment_of(self._declared[name]))
            for name in silent
            if self._verdict_of(name) is None and self._learns(name)
        ]

    def fold_checkpoint(self, endpoint: str, checkpoint: LearnerCheckpoint) -> None:
        """Take the weights of a checkpoint, and models with them, if nobody has said anything newer meanwhile."""
        declaration = self._declared.get(endpoint)
        if declaration is None or self.snapshot_of(endpoint) is not None:
            return
        if checkpoint.experiment != experiment_of(declaration) or len(checkpoint.weights) != len(declaration.arms):
            return
        models = checkpoint.state.get("models") if isinstance(checkpoint.state, dict) else None
        try:
            self.router(endpoint).follow(WeightSnapshot(checkpoint.number, checkpoint.weights, models))
        except ValueError as exc:
            log.warning("endpoint %s: the models of its checkpoint cannot be read: %s", endpoint, exc)

    def _learns(self, endpoint: str) -> bool:
        try:
            return isinstance(self.router(endpoint).policy, (LearnedPolicy, LearnedLinearPolicy, Interleaving))
        except NotFound:
            return False

    def _fold_learner(self, record: Record) -> None:
        """Take in a claim, which ends the last leader's say, or how an experiment ended."""
        claim = read_claim(record)
        if claim is not None:
            self.term = claim.term
            early, self._early = self._early, {}
            for said in early.values():
                self._fold_snapshot(said)
            return
        verdict = read_experiment_result(record)
        if verdict is not None:
            self._verdicts[verdict.endpoint] = verdict
            router = self._routers.get(verdict.endpoint)
            if router is not None:
                self._follow_verdict(router)

    def _fold_snapshot(self, said: SnapshotRecord) -> None:
        if said.term > self.term:
            self._early[said.endpoint] = said
            return
        if said.term < self.term:  # from somebody who does not know yet that another one leads
            return
        if self._is_behind(said):
            return
        self._said[said.endpoint] = said
        router = self._routers.get(said.endpoint)
        if router is not None:
            self._follow_snapshot(router)

    def _is_behind(self, said: SnapshotRecord) -> bool:
        """Tell whether a snapshot is older than the one that is followed.

        One that came late, because its publication was tried again, is alone. If several in succession seem older, the
        one that is followed has a number that its learner never reached, and is let go.
        """
        before = self._said.get(said.endpoint)
        same = before is not None and (before.experiment, before.term) == (said.experiment, said.term)
        if before is None or not same or said.number >= before.number:
            self._behind.pop(said.endpoint, None)
            return False
        self._behind[said.endpoint] = self._behind.get(said.endpoint, 0) + 1
        if self._behind[said.endpoint] < BEHIND_LIMIT:
            return True
        log.error(
            "endpoint %s: snapshot %d is ahead of its learner, which is at %d: a stranger wrote it, and it is let go",
            said.endpoint,
            before.number,
            said.number,
        )
        del self._behind[said.endpoint]
        return False

    def _follow_snapshot(self, router: Router) -> None:
        said = self.snapshot_of(router.endpoint.endpoint)
        if said is None or len(said.weights) != len(router.endpoint.arms):
            return
        verdict = self._verdict_of(said.endpoint)
        if verdict is not None and said.number <= verdict.number:  # it was said before the end was
            return
        try:
            router.follow(WeightSnapshot(said.number, said.weights, said.models))
        except ValueError as exc:
            log.warning("endpoint %s: snapshot %d cannot be read: %s", said.endpoint, said.number, exc)

    def _verdict_of(self, endpoint: str) -> ExperimentResult | None:
        """Return how an endpoint's experiment has ended, if it has, as it is declared now."""
        verdict, declaration = self._verdicts.get(endpoint), self._declared.get(endpoint)
        if verdict is None or declaration is None or verdict.experiment != experiment_of(declaration):
            return None
        return verdict

    def _follow_verdict(self, router: Router) -> None:
        """Start from how an experiment ended, until the learner says more."""
        verdict = self._verdict_of(router.endpoint.endpoint)
        if verdict is None:
            return
        if router.snapshot.number <= verdict.number and len(verdict.weights) == len(router.endpoint.arms):
            router.follow(WeightSnapshot(verdict.number, verdict.weights))

    def _hear(self, said: Announcement, at: float) -> None:
        served = self.versions.setdefault(said.model, {}).setdefault(
            said.version, ServedVersion(said.model, said.version)
        )
        served.heard[said.instance] = (said.state, at)
        if said.full:
            served.full = said.full
        if said.error or said.state == "ready":  # while it starts again, the last reason still holds
            served.error = said.error
        oldest = self._clock() - 10 * SILENT_AFTER_S
        for instance in [who for who, (_, at) in served.heard.items() if at < oldest]:
            del served.heard[instance]

    def _hear_catalog(self, said: Announcement) -> None:
        if said.state in ("stopped", "failed"):
            self.catalogs.pop(said.instance, None)
        elif said.full:
            self.catalogs[said.instance] = said.full

    def _find(self, target: Target) -> ServedVersion | None:
        return self.versions.get(target.model, {}).get(target.version)

    def _unclaimed(self) -> list[str]:
        claimed = {target.model for endpoint in self._declared.values() for target in endpoint.arms.values()}
        return [model for model in self.versions if model not in claimed]

    def _implicit(self, model: str) -> Endpoint:
        """An endpoint that nobody declared: a model under its own name.

        Its newest ready version (or the newest) gets the traffic; the others are reachable by number.
        """
        if model not in self._unclaimed():
            known = ", ".join(self.endpoints()) or "none yet"
            raise NotFound(f"Request for unknown model: {model!r} is not found; there is: {known}")  # Triton's words
        versions, newest = self._implied[model] = self._served_now(model)
        arms = {f"v{version}": f"{model}@{version}" for version in versions}
        policy = {"split": {arm: float(arm == f"v{newest}") for arm in arms}} if len(arms) > 1 else {}
        return Endpoint(endpoint=model, arms=arms, policy=policy)  # type: ignore[arg-type]

    def _served_now(self, model: str) -> tuple[list[int], int]:
        """Return the versions of a model that somebody serves, loads or fails to load, and which gets the traffic."""
        newest, oldest = self._newest(model), self._clock() - SILENT_AFTER_S
        live = [
            one.version
            for one in self.versions[model].values()
            if any(state != "stopped" and at >= oldest for state, at in one.heard.values())
        ]
        return sorted({*live, newest})[-ARMS_LIMIT:], newest

    def _newest(self, model: str) -> int:
        versions = self.versions[model]
        ready = [version for version in versions if self.is_ready(model, version)]
        return max(ready or versions)

    def _is_current(self, router: Router) -> bool:
        name = router.endpoint.endpoint
        if name not in self.versions or name not in self._unclaimed():
            return False
        return self._implied.get(name) == self._served_now(name)
