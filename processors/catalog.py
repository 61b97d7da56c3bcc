"""The catalog scans the model repository, declares the queues of its versions, and sets the targets of the engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from broker.base import Broker
from broker.channels import NO_LIMITS, Limits
from broker.delivery.heartbeat import Heartbeat
from broker.delivery.membership import Membership
from broker.errors import Misconfigured, TryAgain
from broker.messages import Record
from broker.records.status import read_status
from broker.support.tasks import Tasks, wait_for_event
from processors.engine import Engine, ReplicaTarget
from processors.repository import RepositorySnapshot, scan
from processors.vanished import Key, VanishedVersions

logger = logging.getLogger(__name__)

ENGINE_CHECK_S = 0.2
ERROR_CHARACTERS = 1000
PROBLEMS_ANNOUNCED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSettings:
    """Settings of the catalog: the repository that it scans, and the limits of its queues."""

    instance: str
    repository: Path
    poll_s: float = 2.0
    doubt_s: float = 60.0
    replicas: int = 1
    limits: Limits = NO_LIMITS
    metrics_port: int = 0


async def run(broker: Broker, engine: Engine, settings: CatalogSettings, stop: asyncio.Event) -> None:
    """Serve the models of the repository until `stop` is set."""
    heartbeat = Heartbeat(broker, instance=settings.instance, part="catalog", metrics_port=settings.metrics_port)
    member = Membership(broker, heartbeat)
    await engine.open()
    catalog = Catalog(broker, engine, settings, heartbeat)
    await member.follow(status=catalog.fold, status_since_s=0.0)
    await catalog.update()
    member.beat()
    tasks = Tasks()
    tasks.spawn(_every(settings.poll_s, catalog), "repository")
    while not stop.is_set():
        await engine.restart_dead()
        await wait_for_event(stop, ENGINE_CHECK_S)
    await tasks.cancel()  # before the engine: no model is started while it closes
    await engine.close()
    await member.leave()


async def _every(seconds: float, catalog: Catalog) -> None:
    while True:
        await asyncio.sleep(seconds)
        await catalog.update()


class Catalog:
    """The targets of the engine, from the last scan of the repository."""

    def __init__(
        self,
        broker: Broker,
        engine: Engine,
        settings: CatalogSettings,
        heartbeat: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._settings = settings
        self._heartbeat = heartbeat
        self._fingerprints: dict[Key, str] = {}
        self._has_scanned = False
        self._targets: list[ReplicaTarget] = []
        self._models: dict[str, list[int]] | None = None  # None: nothing was announced yet
        self._ready: set[Key] = set()  # versions of which a replica has been ready
        self._vanished = VanishedVersions(settings.doubt_s, clock)
        self._problems: dict[str, str] = {}
        self._left_out: dict[str, bool] = {}  # warnings about folders, and whether each was logged

    def fold(self, record: Record) -> None:
        """Read a record of the `status` log."""
        announcement = read_status(record)
        if announcement is not None and announcement.part == "replica" and announcement.state == "ready":
            self._ready.add((announcement.model, announcement.version))

    async def update(self) -> None:
        """Scan the repository. A version is served once two scans agree on it, so that no half-copied one is."""
        try:
            snapshot = await asyncio.to_thread(scan, self._settings.repository)
        except Misconfigured as exc:
            await self._announce(self._models or {}, {"": str(exc)})
            return
        first, self._has_scanned = not self._has_scanned, True
        targets = self._choose(snapshot, first=first)
        self._warn(snapshot.left_out(), at_once=first)
        problems = {model: str(problem) for model, problem in snapshot.problems.items()}
        models: defaultdict[str, list[int]] = defaultdict(list)
        for one in targets:
            models[one.model].append(one.version)
        await self._announce(dict(models), problems | self._vanished.problem(self._settings.repository))
        if targets != self._targets:
            await self._deploy(targets)

    def _choose(self, snapshot: RepositorySnapshot, *, first: bool) -> list[ReplicaTarget]:
        """Return the targets: complete versions that two scans agree on, and served versions that must not end yet."""
        found = {
            (model.config.name, version.number): ReplicaTarget(
                model=model.config.name,
                version=version.number,
                replicas=model.config.instance_count or self._settings.replicas,
                fingerprint=version.fingerprint,
            )
            for model in snapshot.models.values()
            for version in model.versions
        }
        settled = {key: one for key, one in found.items() if first or self._fingerprints.get(key) == one.fingerprint}
        self._fingerprints = {key: one.fingerprint for key, one in found.items()}
        served = {(one.model, one.version): one for one in self._targets}
        missing = [key for key in served if key not in settled]
        kept = {key: served[key] for key in missing if self._must_stay(key, snapshot, settled)}
        gone = [key for key in missing if key not in kept and not snapshot.withholds(*key)]
        for key in self._vanished.still_served(gone, len(served)):
            kept[key] = served[key]
        return list((settled | kept).values())

    def _must_stay(self, key: Key, snapshot: RepositorySnapshot, settled: Collection[Key]) -> bool:
        """Return True if a served version changes, is unreadable now, or waits until its successor is ready."""
        if snapshot.withholds(*key):
            return not any(other[0] == key[0] and other in self._ready for other in settled)
        return snapshot.has(*key)

    async def _deploy(self, targets: list[ReplicaTarget]) -> None:
        """Declare the queues, then start replicas: requests may wait for a model that still loads."""
        try:
            for one in targets:
                queue = self._broker.channels.inputs(one.model, one.version)
                await self._broker.declare(queue, self._settings.limits)
                await self._broker.declare(self._broker.channels.retry(queue))
        except TryAgain as exc:
            logger.warning("%s; the next scan tries again", exc)
            return
        await self._engine.set_targets(targets)
        self._targets = targets
        self._ready &= {(one.model, one.version) for one in targets}

    def _warn(self, left_out: list[str], *, at_once: bool) -> None:
        """Log each warning once; a folder that is being copied in may become a version by the next scan."""
        for warning in left_out:
            if not self._left_out.get(warning) and (at_once or warning in self._left_out):
                logger.warning("%s", warning)
        self._left_out = {warning: at_once or warning in self._left_out for warning in left_out}

    async def _announce(self, models: dict[str, list[int]], problems: dict[str, str]) -> None:
        """Announce models and problems, if they changed. An empty model name stands for the whole repository."""
        if (models, problems) == (self._models, self._problems):
            return
        for model, problem in problems.items():
            if self._problems.get(model) != problem:
                logger.warning("%s", f"model {model}: {problem}" if model else problem)
        self._models, self._problems = models, problems
        error = "; ".join([f"{model}: {problem}" if model else problem for model, problem in problems.items()])
        announced = dict(islice(problems.items(), PROBLEMS_ANNOUNCED))
        await self._heartbeat.set_state(
            "ready", full={"models": models, "problems": announced}, error=error[:ERROR_CHARACTERS]
        )
