"""The catalog watches the model repository, declares the queues of what is there, and tells the engine what to run."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from broker.announcer import Announcer
from broker.base import NO_LIMITS, Broker, Limits
from broker.errors import Misconfigured, TryAgain
from broker.tasks import Tasks
from processors.engine import Engine, Wanted
from processors.repository import Snapshot, scan

log = logging.getLogger(__name__)

WATCH_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSettings:
    """What a catalog watches, and how much its queues may hold."""

    instance: str
    repository: Path
    poll_s: float = 2.0
    replicas: int = 1
    limits: Limits = NO_LIMITS
    metrics_port: int = 0


async def run(broker: Broker, engine: Engine, settings: CatalogSettings, stop: asyncio.Event) -> None:
    """Serve what the repository holds until `stop` is set."""
    tasks = Tasks()
    await broker.declare(broker.channels.declared)
    await broker.declare(broker.channels.status)
    announcer = Announcer(broker, instance=settings.instance, part="catalog", metrics_port=settings.metrics_port)
    await engine.open()
    catalog = Catalog(broker, engine, settings, announcer)
    await catalog.look()
    tasks.spawn(announcer.beat(), "heartbeat")
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
    await announcer.say("stopped")


async def _every(seconds: float, catalog: Catalog) -> None:
    while True:
        await asyncio.sleep(seconds)
        await catalog.look()


class Catalog:
    """What is wanted, by the last look at the repository."""

    def __init__(self, broker: Broker, engine: Engine, settings: CatalogSettings, announcer: Announcer) -> None:
        self._broker = broker
        self._engine = engine
        self._settings = settings
        self._announcer = announcer
        self._seen: dict[tuple[str, int], str] = {}
        self._looked = False
        self._wanted: list[Wanted] = []
        self._problems: dict[str, str] = {}
        self._missing = ""
        self._left_out: dict[str, bool] = {}  # what is said of a folder, and whether it was said

    async def look(self) -> None:
        """Scan the repository; a version is taken up once two scans agree on it, so that nothing half-copied is."""
        try:
            snapshot = await asyncio.to_thread(scan, self._settings.repository)
        except Misconfigured as exc:
            await self._miss(str(exc))
            return
        await self._miss("")
        first, self._looked = not self._looked, True
        settled = [
            Wanted(model.config.name, version.number, self._settings.replicas, version.fingerprint)
            for model in snapshot.models.values()
            for version in model.versions
            if first or self._seen.get((model.config.name, version.number)) == version.fingerprint
        ]
        self._seen = {
            (model.config.name, version.number): version.fingerprint
            for model in snapshot.models.values()
            for version in model.versions
        }
        self._warn(snapshot.left_out(), at_once=first)
        await self._tell(snapshot)
        if settled != self._wanted:
            await self._deploy(settled)

    async def _deploy(self, wanted: list[Wanted]) -> None:
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

    def _warn(self, left_out: list[str], *, at_once: bool) -> None:
        """Log once what is no version; one that is just being copied in becomes one by the next look."""
        for said in left_out:
            if not self._left_out.get(said) and (at_once or said in self._left_out):
                log.warning("%s", said)
        self._left_out = {said: at_once or said in self._left_out for said in left_out}

    async def _miss(self, error: str) -> None:
        """Say, once, that the repository cannot be listed, or that it can again; what runs goes on meanwhile."""
        if error == self._missing:
            return
        self._missing = error
        if error:
            log.warning("%s; it is looked for again every %g s", error, self._settings.poll_s)
        await self._announcer.say("ready", error=error)

    async def _tell(self, snapshot: Snapshot) -> None:
        """Announce models that cannot be served, with the reason."""
        problems = {model: str(problem) for model, problem in snapshot.problems.items()}
        if problems != self._problems or not self._wanted:
            for model, problem in problems.items():
                if self._problems.get(model) != problem:
                    log.warning("model %s is not served: %s", model, problem)
            self._problems = problems
            await self._announcer.say("ready", full={"problems": problems})
