"""Builds each part from the settings: the only place that knows all packages."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.base import Broker
from broker.channels import Limits
from broker.connect import connect
from broker.protocol.ids import now_us
from broker.records.agreement import Agreement, key_hash
from deploy.hosts import reached_at
from deploy.processes.command import PartCommand, command_line
from deploy.processes.native import pools, replica_environment
from deploy.processes.shell import Context, context_of, run_part, serve_pages
from deploy.settings import (
    Settings,
    assignment_key,
    child_environment,
    load_settings,
    own_environment,
    start_again_with,
)

if TYPE_CHECKING:  # a process imports the packages that it runs
    from processors.engine import Engine

# The executor's thread comes back from every torch call to a busy loop: at Python's 5 ms it would wait more than work.
SWITCH_INTERVAL_S = 0.0005

CLOSING_S = 5.0  # behind a grace: what it takes to end replicas, and to close the broker

PARTS = ("gateway", "router", "learner", "processors", "monitors")


@dataclass(frozen=True, slots=True)
class Installation:
    """A settings file and what it says."""

    path: Path
    settings: Settings
    overrides: Mapping[str, str]

    @classmethod
    def at(cls, path: Path, overrides: dict[str, str] | None = None) -> Installation:
        """Read the settings at `path`."""
        return cls(path.resolve(), load_settings(path, overrides), overrides or {})

    def broker(self) -> Broker:
        """Return the installation's broker, not opened yet."""
        return connect(self.settings.broker_url, self.settings.channels)

    @property
    def grace_s(self) -> float:
        """How long a part may take to stop."""
        return max(self.settings.gateway.grace, self.settings.processors.grace) + CLOSING_S

    def run(self, part: str, *, parent: int | None) -> int:
        """Run one part in this process, until a signal (or the end of `parent`) stops it; returns the exit status."""
        start_again_with(pools(1))
        port = self.settings.metrics.port if part == "monitors" else 0
        mains = {
            "gateway": self._gateway,
            "router": self._router,
            "learner": self._learner,
            "processors": self._processors,
            "monitors": self._monitors,
        }
        return run_part(
            part,
            mains[part],
            host=self.settings.metrics.host,
            port=port,
            parent=parent,
            grace_s=self.grace_s,
        )

    def run_replica(self, model: str, version: int, *, parent: int | None) -> int:
        """Run one replica of a model version in this process."""
        start_again_with(replica_environment(self.settings.processors.threads))

        async def main(context: Context) -> None:
            await self.serve_replica(context, model, version)

        grace_s = self.settings.processors.grace
        return run_part(f"replica-{model}-{version}", main, parent=parent, grace_s=grace_s)

    async def serve_replica(self, context: Context, model: str, version: int) -> None:
        """Serve a model version until the context says stop."""
        from processors.replica import Replica, ReplicaSpec

        sys.setswitchinterval(SWITCH_INTERVAL_S)
        settings = self.settings
        spec = ReplicaSpec(
            instance=context.instance,
            repository=settings.repository_folder,
            model=model,
            version=version,
            kept_configs=settings.data_folder / "configs",
            device=settings.processors.device,
            threads=settings.processors.threads,
            grace_s=settings.processors.grace,
            limits=self.queue_limits(),
            metrics_port=context.metrics_port,
        )
        async with self.broker() as broker:
            context.ready = True
            await Replica(broker, spec, context.registry).run(context.stop)

    def part_command(self, *words: str) -> list[str]:
        """Return the command line that runs a part of this installation as a child of this process."""
        return command_line(PartCommand(parent=os.getpid(), settings=self.path, words=words))

    async def _gateway(self, context: Context) -> None:
        from gateway.core.core import GatewaySettings
        from gateway.results.sqlite_store import SqliteResults
        from gateway.run import run
        from gateway.transport.door import DoorLimits

        gateway, key = self.settings.gateway, assignment_key(self.settings)
        door = DoorLimits(
            head_bytes=gateway.head_limit,
            target_bytes=gateway.target_limit,
            head_s=gateway.head_timeout,
            body_s=gateway.body_timeout,
            idle_s=gateway.idle_timeout,
            arriving_bytes=gateway.arriving_limit,
            bodies_bytes=gateway.bodies_limit,
            connections=gateway.connections_limit,
        )
        settings = GatewaySettings(
            instance=context.instance,
            host=gateway.host,
            port=gateway.http_port,
            body_limit_bytes=gateway.body_limit,
            pending_limit=gateway.pending_limit,
            results_limit_bytes=gateway.results_limit,
            grace_s=gateway.grace,
            metrics_port=context.metrics_port,
            strict_readiness=gateway.strict_readiness,
            compress_above_bytes=gateway.compress_above,
            door=door,
            agreement=self._agreement(key),
        )
        results = SqliteResults(self.settings.data_folder / "results.db", ttl_s=gateway.results_ttl)
        async with self.broker() as broker:
            await run(broker, settings, key, results, context.registry, context.stop)

    async def _router(self, context: Context) -> None:
        from router.service.run import RouterSettings, run

        key = assignment_key(self.settings)
        settings = RouterSettings(
            instance=context.instance,
            metrics_port=context.metrics_port,
            limits=self.queue_limits(),
            agreement=self._agreement(key),
        )
        async with self.broker() as broker:
            await run(broker, settings, key, context.registry, context.stop)

    async def _learner(self, context: Context) -> None:
        from router.learning.experiment import read_experiment
        from router.learning.service import run
        from router.learning.settings import LearnerSettings

        settings = LearnerSettings(
            instance=context.instance, tick_s=self.settings.learner.tick, metrics_port=context.metrics_port
        )
        ledger = self.settings.data_folder / "learner.db"
        async with self.broker() as broker:
            await run(broker, settings, ledger, read_experiment, context.registry, context.stop)

    async def _processors(self, context: Context) -> None:
        from processors.catalog import CatalogSettings, run

        settings = self.settings
        catalog = CatalogSettings(
            instance=context.instance,
            repository=settings.repository_folder,
            poll_s=settings.repository.poll,
            doubt_s=settings.repository.doubt,
            replicas=settings.processors.replicas.min,
            limits=self.queue_limits(),
            metrics_port=context.metrics_port,
        )
        async with self.broker() as broker:
            await run(broker, self._engine(), catalog, context.stop)

    async def _monitors(self, context: Context) -> None:
        from monitors.known import KnownVersions
        from monitors.run import MonitorSettings, run

        known = KnownVersions(host=reached_at(self.settings.metrics.host))
        context.pages["/targets"] = lambda: ("application/json", json.dumps(known.targets()).encode())
        settings = MonitorSettings(
            instance=context.instance,
            folder=self.settings.data_folder / "monitors",
            metrics_port=context.metrics_port,
            max_series=self.settings.monitors.prometheus.max_series,
        )
        async with self.broker() as broker:
            await run(broker, settings, context.registry, context.stop, known)

    def _agreement(self, key: bytes) -> Agreement:
        limits = self.settings.broker.limits
        return Agreement(
            key=key_hash(key, self.settings.prefix),
            is_key_given=bool(self.settings.secrets.assignment.get_secret_value()),
            started_us=now_us(),
            limit_requests=limits.requests,
            limit_bytes=limits.size,
        )

    def queue_limits(self) -> Limits:
        """Return how much a queue may hold."""
        limits = self.settings.broker.limits
        return Limits(messages=limits.requests, bytes=limits.size)

    def _engine(self) -> Engine:
        processors = self.settings.processors
        native = replica_environment(processors.threads)
        if processors.engine == "ray":
            from processors.engine_ray import RayEngine

            work = functools.partial(serve_in_ray, str(self.path), str(Path.cwd()))
            name = self.settings.prefix.rstrip(".").replace(".", "-")
            environment = own_environment(self.overrides, native)
            return RayEngine(
                work,
                name=name,
                grace_s=processors.grace,
                environment=environment,
                gpus=processors.gpus,
                empty_folder=self.settings.data_folder / "ray",
            )
        from processors.engine_process import ProcessEngine

        def command(model: str, version: int, _: int) -> Sequence[str]:
            return self.part_command("replica", model, str(version))

        return ProcessEngine(command, grace_s=processors.grace, environment=child_environment(self.overrides, native))


async def serve_in_ray(path: str, folder: str, model: str, version: int, stop: asyncio.Event) -> None:
    """The work of one replica inside a Ray actor, which has a loop and signals of its own.

    `folder` is where the processors were started: relative paths mean the same here, if it is on this machine.
    """
    with contextlib.suppress(OSError):
        os.chdir(folder)
    installation = Installation.at(Path(path))
    context = context_of(f"replica-{model}-{version}", stop)
    server = serve_pages(context, installation.settings.metrics.host, 0)
    try:
        await installation.serve_replica(context, model, version)
    finally:
        server.shutdown()
