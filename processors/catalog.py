"""The catalog watches the model repository, declares the queues of what is there, and tells the engine what to run."""

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
from broker.delivery.log_follower import follow_status
from broker.errors import Misconfigured, TryAgain
from broker.messages import Record
from broker.records.status import read_status
from broker.support.tasks import Tasks
from processors.doubts import Key, VanishedVersions
from processors.engine import Engine, ReplicaTarget
from processors.repository import RepositorySnapshot, scan

log = logging.getLogger(__name__)

WATCH_S = 0.2
ERROR_CHARACTERS = 1000
PROBLEMS_ANNOUNCED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSettings:
    """What a catalog watches, and how much its queues may hold."""

    instance: str
    repository: Path
    poll_s: float = 2.0
    doubt_s: float = 60.0
    replicas: int = 1
    limits: Limits = NO_LIMITS
    metrics_port: int = 0


async def run(broker: Broker, engine: Engine, settings: CatalogSettings, stop: asyncio.Event) -> None:
    """Serve what the repository holds until `stop` is set."""
    tasks = Tasks()
    await broker.declare(broker.channels.declared)
    await broker.declare(broker.channels.status)
    announcer = Heartbeat(broker, instance=settings.instance, part="catalog", metrics_port=settings.metrics_port)
    await engine.open()
    catalog = Catalog(broker, engine, settings, announcer)
    await catalog.look()
    tasks.spawn(announcer.beat(), "heartbeat")
    tasks.spawn(follow_status(broker, catalog.fold, since_s=0.0).run(), "status")
    tasks.spawn(_every(settings.poll_s, catalog), "repository")
    while not stop.is_set():
        await engine.watch()
        try:
            async with asyncio.timeout(WATCH_S):
                await stop.wait()
        except TimeoutError:
            continue
    await tasks.cancel()
    await engine.close()
    await announcer.set_state("stopped")


async def _every(seconds: float, catalog: Catalog) -> None:
    while True:
        await asyncio.sleep(seconds)
        await catalog.look()


class Catalog:
    """What is wanted, by the last look at the repository."""

    def __init__(
        self,
        broker: Broker,
        engine: Engine,
        settings: CatalogSettings,
        announcer: Heartbeat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._settings = settings
        self._announcer = announcer
        self._seen: dict[Key, str] = {}
        self._looked = False
        self._wanted: list[ReplicaTarget] = []
        self._models: dict[str, list[int]] | None = None  # nothing was announced yet
        self._ready: set[Key] = set()  # what came up at some time while it was wanted
        self._doubts = VanishedVersions(settings.doubt_s, clock)
        self._problems: dict[str, str] = {}
        self._left_out: dict[str, bool] = {}  # what is said of a folder, and whether it was said

    def fold(self, record: Record) -> None:
        """Take in a record of the `status` log."""
        said = read_status(record)
        if said is not None and said.part == "replica" and said.state == "ready":
            self._ready.add((said.model, said.version))

    async def look(self) -> None:
        """Scan the repository; a version is taken up once two scans agree on it, so that nothing half-copied is."""
        try:
            snapshot = await asyncio.to_thread(scan, self._settings.repository)
        except Misconfigured as exc:
            await self._tell(self._models or {}, {"": str(exc)})
            return
        first, self._looked = not self._looked, True
        wanted = self._chosen(snapshot, first=first)
        self._warn(snapshot.left_out(), at_once=first)
        problems = {model: str(problem) for model, problem in snapshot.problems.items()}
        models: defaultdict[str, list[int]] = defaultdict(list)
        for one in wanted:
            models[one.model].append(one.version)
        await self._tell(dict(models), problems | self._doubts.said(self._settings.repository))
        if wanted != self._wanted:
            await self._deploy(wanted)

    def _chosen(self, snapshot: RepositorySnapshot, *, first: bool) -> list[ReplicaTarget]:
        """Return what is to be served: what is whole and settled, and what was served before and is not to end yet."""
        found = {
            (model.config.name, version.number): ReplicaTarget(
                model.config.name,
                version.number,
                model.config.instance_count or self._settings.replicas,
                version.fingerprint,
            )
            for model in snapshot.models.values()
            for version in model.versions
        }
        settled = {key: one for key, one in found.items() if first or self._seen.get(key) == one.fingerprint}
        self._seen = {key: one.fingerprint for key, one in found.items()}
        served = {(one.model, one.version): one for one in self._wanted}
        kept = {key: one for key, one in served.items() if key not in settled and self._stays(key, snapshot, settled)}
        gone = [key for key in served if key not in settled and key not in kept and not snapshot.withholds(*key)]
        for key in self._doubts.doubted(gone, len(served)):
            kept[key] = served[key]
        return list((settled | kept).values())

    def _stays(self, key: Key, snapshot: RepositorySnapshot, settled: Collection[Key]) -> bool:
        """Tell whether what was served goes on: it changes, cannot be read now, or its successor is not ready yet."""
        if snapshot.withholds(*key):
            return not any(other[0] == key[0] and other in self._ready for other in settled)
        return snapshot.has(*key)

    async def _deploy(self, wanted: list[ReplicaTarget]) -> None:
        """Queues first, replicas after: a request may wait for a model that still loads."""
        try:
            for one in wanted:
                queue = self._broker.channels.inputs(one.model, one.version)
                await self._broker.declare(queue, self._settings.limits)
                await self._broker.declare(self._broker.channels.retry(queue))
        except TryAgain as exc:
            log.warning("%s; the next look tries again", exc)
            return
        await self._engine.want(wanted)
        self._wanted = wanted
        self._ready &= {(one.model, one.version) for one in wanted}

    def _warn(self, left_out: list[str], *, at_once: bool) -> None:
        """Log once what is no version; one that is just being copied in becomes one by the next look."""
        for said in left_out:
            if not self._left_out.get(said) and (at_once or said in self._left_out):
                log.warning("%s", said)
        self._left_out = {said: at_once or said in self._left_out for said in left_out}

    async def _tell(self, models: dict[str, list[int]], problems: dict[str, str]) -> None:
        """Announce what is there, and what is wrong by model (an empty name stands for the whole repository)."""
        if (models, problems) == (self._models, self._problems):
            return
        for model, problem in problems.items():
            if self._problems.get(model) != problem:
                log.warning("%s", f"model {model}: {problem}" if model else problem)
        self._models, self._problems = models, problems
        error = "; ".join([f"{model}: {problem}" if model else problem for model, problem in problems.items()])
        announced = dict(islice(problems.items(), PROBLEMS_ANNOUNCED))
        await self._announcer.set_state(
            "ready", full={"models": models, "problems": announced}, error=error[:ERROR_CHARACTERS]
        )
